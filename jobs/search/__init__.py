"""Search: exact over the parts, or through a sink."""
