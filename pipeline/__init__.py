"""The rooms: README.md is the map."""

import os

if __name__ != "embedmill.pipeline":  # one module under two names would be two modules
    raise ImportError("this folder is the package embedmill.pipeline: import it by that name")

# Threads that spin while they wait take the core from the thread they wait for: two encoders on two
# cores lost nine tenths to it. OpenMP reads this once, when a room imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
