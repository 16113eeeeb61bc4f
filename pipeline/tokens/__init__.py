"""Tokens: texts become token ids in BERT's input form."""
