"""The index room: a snapshot's rows in a vector index, and kept there from snapshot to snapshot."""
