"""The encode room: packs of token ids in, hidden states out."""
