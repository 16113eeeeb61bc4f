"""Verify: checks that an output is still what was committed."""
