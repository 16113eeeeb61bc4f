"""What goes wrong on Ray, as one of our errors in one line. No ray here: its types by name."""

from __future__ import annotations

import re

from embedmill.schemas.errors import EmbedmillError, ModelError, TryAgain

# What Ray raises for code of ours that failed, if it could not bring along what that raised.
FAILED_CODE = ("RayTaskError", "UserCodeException", "UnserializableException")


def unreachable(where: str, reason: str) -> TryAgain:
    """Why Ray did not let us in, in one line."""
    versions = re.findall(r"^\s+(Ray|Python): (\S+)", reason, re.MULTILINE)
    if len(versions) == 4:
        theirs, ours = (" and ".join(map(" ".join, pair)) for pair in (versions[:2], versions[2:]))
        what = f"runs {theirs}, this machine has {ours}"
        return TryAgain("RAY_VERSION", where, what, "install the same on both")
    if "token" in reason.lower() or "unauthenticated" in reason.lower():
        what = "wants a token that this machine does not have"
        do = "put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        return TryAgain("NO_TOKEN", where, what, do)
    what = f"cannot be reached ({reason.strip().splitlines()[0]})"
    return TryAgain("NO_CLUSTER", where, what, "try again")


def ours(error: BaseException) -> EmbedmillError:
    """The error that our code raised on a worker, as itself; else what Ray says, in one line."""
    seen: BaseException | None = error
    last = error
    while seen is not None:
        inner = getattr(seen, "cause", None) or seen.__cause__
        # What Ray makes of an error of ours is one too, and reads as a traceback; so go on.
        if isinstance(seen, EmbedmillError) and not isinstance(inner, EmbedmillError):
            return type(seen)(seen.code, seen.where, seen.what, seen.do)
        seen, last = inner, seen
    if type(error).__name__ == "ExecutionTimeoutError":
        what = str(error).partition(".")[0]
        do = "see whether the cluster can bring the nodes; the same command resumes"
        return TryAgain("NO_PROGRESS", "", what, do)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return _kind(error, last)("RAY", "", what, "the same command resumes")


def _kind(error: BaseException, last: BaseException) -> type[EmbedmillError]:
    """Whose fault it is: an encoder's that did not start, Ray's own, or else that of our code.

    `last`: what all the others were raised from.
    """
    if type(error).__name__ in ("RayActorError", "ActorDiedError"):
        return ModelError
    theirs = type(last).__module__.partition(".")[0] == "ray"
    return TryAgain if theirs and type(last).__name__ not in FAILED_CODE else EmbedmillError
