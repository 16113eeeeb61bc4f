"""Process: signals, progress and how a command ends."""
