"""Qdrant: its server, and its engine in this process."""
