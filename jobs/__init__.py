"""The front door: what people and schedulers start."""
