"""Python runs this at the start of every process that has this folder in its PYTHONPATH."""

import os

if "EMBEDMILL_TEST_POINT" in os.environ:
    from tests.faults.points import arm

    arm()
