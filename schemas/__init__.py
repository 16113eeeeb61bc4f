"""Agreements: what is promised to users, to storage and between the rooms."""

if __name__ != "embedmill.schemas":  # one module under two names would be two modules
    raise ImportError("this folder is the package embedmill.schemas: import it by that name")
