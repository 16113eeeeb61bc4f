"""Plan: what a run will do, frozen before it begins."""
