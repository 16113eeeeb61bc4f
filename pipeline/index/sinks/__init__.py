"""Sinks: one folder for each vector index."""
