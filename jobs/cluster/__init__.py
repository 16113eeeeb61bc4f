"""Cluster: jobs that run elsewhere, now or on a schedule."""
