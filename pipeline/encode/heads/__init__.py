"""Heads: what a model computes from its hidden states."""
