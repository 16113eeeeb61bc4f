"""Vectors: hidden states become the values of output columns."""
