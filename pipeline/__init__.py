"""The rooms: README.md is the map."""

if __name__ != "embedmill.pipeline":  # one module under two names would be two modules
    raise ImportError("this folder is the package embedmill.pipeline: import it by that name")
