"""Snapshot: reads, judges and cleans up what is committed."""
