"""Reuse: rows whose input is in the last snapshot keep their vectors."""
