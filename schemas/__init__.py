"""Agreements: what is promised to users, to storage and between the rooms."""
