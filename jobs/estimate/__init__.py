"""Estimate: what a run will do, how long it will take and what it will cost."""
