"""Reports what a submitted job waits for, in the cluster's own words, until its driver starts.

Ray tells of a pending job only that it may wait for resources or for its environment. The cluster's
state says which: CPUs that nobody has, or a worker process that ends as soon as it is started.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from embedmill.schemas.errors import TryAgain
from embedmill.schemas.terminal import say

FIRST_SECONDS, EVERY_SECONDS = 20.0, 60.0
# In a raylet's log: a worker that can never start. Ray goes on trying for 15 minutes.
NEVER = re.compile(r"^(?:bash|sh): line \d+: .*(?:No such file or directory|Permission denied)")


class Waiting:
    """Says after some seconds, and then once a minute, what a pending job waits for."""

    def __init__(
        self, client: Any, run_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`client`: Ray's JobSubmissionClient."""
        self._client, self._run_id, self._clock = client, run_id, clock
        self._next = clock() + FIRST_SECONDS

    def due(self) -> bool:
        """True once it is time to look again."""
        return self._clock() >= self._next

    def look(self, status: str, message: str) -> None:
        """Says what a pending job waits for; TryAgain if it can never start."""
        self._next = self._clock() + EVERY_SECONDS
        if status != "PENDING":
            return
        if cause := self.cause():
            with suppress(OSError, RuntimeError):
                self._client.stop_job(self._run_id)
            what = f"cannot start there: a worker of the cluster ends at once ({cause})"
            do = "Ray does not quote the path of its Python: install it in a path without spaces"
            raise TryAgain("CANNOT_START", self._run_id, what, do)
        say(f"the job waits: {self._resources() or message or 'the cluster does not say for what'}")

    def cause(self) -> str:
        """The line of a node's log that says why no worker starts; "" if there is none."""
        for node in self._nodes():
            log = f"/api/v0/logs/file?node_id={node}&filename=raylet.err&lines=50"
            lines = [line[1:] if line[:1] in "01" else line for line in self._text(log).split("\n")]
            if found := [line for line in lines if NEVER.match(line)]:
                return found[-1].strip()[:200]
        return ""

    def _resources(self) -> str:
        """Lists the cluster's CPUs and GPUs, how many are in use, and what is asked for."""
        status = self._json("/api/cluster_status")
        report = (status.get("data") or {}).get("clusterStatus") or {}
        usage = (report.get("loadMetricsReport") or {}).get("usage") or {}
        said = [f"{used:g} of {of:g} {name} in use" for name, (used, of) in sorted(usage.items())
                if name in ("CPU", "GPU")]  # fmt: skip
        asked = (report.get("loadMetricsReport") or {}).get("resourceDemand") or []
        wants = [f"{count} times {shape}" for shape, count in asked[:3]]
        if wants:
            said.append(f"asked for: {', '.join(wants)}")
        return "for resources, " + "; ".join(said) if said else ""

    def _nodes(self) -> list[str]:
        found = self._json("/nodes?view=summary")
        summary = (found.get("data") or {}).get("summary") or []
        return [node["raylet"]["nodeId"] for node in summary if "nodeId" in node.get("raylet", {})]

    def _json(self, path: str) -> dict[str, Any]:
        try:
            found = self._client._do_request("GET", path).json()
        except (OSError, ValueError, RuntimeError):
            return {}
        return found if isinstance(found, dict) else {}

    def _text(self, path: str) -> str:
        try:
            return self._client._do_request("GET", path).text
        except (OSError, RuntimeError):
            return ""
