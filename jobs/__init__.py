"""The front door: what people and schedulers start."""

if __name__ != "embedmill.jobs":  # one module under two names would be two modules
    raise ImportError("this folder is the package embedmill.jobs: import it by that name")
