"""Model: what a model's files say, without torch."""
