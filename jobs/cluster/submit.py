"""`submit` and `stop`: the same run on a cluster, through Ray's Job API.

What travels is our own code and the resolved spec, never the environment: credentials belong to the
cluster's nodes. A job's id is its run's id, so `status OUT` names what `stop` takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

if "ray" not in sys.modules:  # it reads this when it is imported, and only then
    os.environ.setdefault("RAY_AUTH_MODE", "token")

import aiohttp
import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from embedmill.jobs.cluster.portable_spec import travelling, whole
from embedmill.jobs.cluster.waiting import Waiting
from embedmill.jobs.process.signals import Signalled, Signals
from embedmill.pipeline.run.failures import unreachable
from embedmill.pipeline.run.log import RUN_ID, new_run_id
from embedmill.schemas.errors import EmbedmillError, Interrupted, SpecError, TryAgain
from embedmill.schemas.spec import Spec
from embedmill.schemas.spec_file.load import dump_spec
from embedmill.schemas.terminal import say

ENTRYPOINT = "python -m embedmill run job.yaml --json"
GRACE_SECONDS = 600  # for the units in flight of a stopped job, before Ray kills it
PATIENCE_SECONDS = 60  # with a cluster that has just started
QUIET = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env")
for name in QUIET:  # what they upload and follow, nobody asked
    logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
LOST = "the connection to the cluster was lost; the job goes on there"


def submit(spec: Spec, address: str, *, wait: bool = True) -> tuple[dict[str, Any], int]:
    """Runs the spec on a cluster; gives what `run --json` prints there, and its exit code.

    Without `wait` gives {run_id, address, output} as soon as the cluster has the job. While waiting
    the job's words go to stderr; the first Ctrl-C stops the job, a second one leaves it.
    """
    client = _connect(address)
    run_id = new_run_id()
    with tempfile.TemporaryDirectory(prefix="embedmill-") as folder, Signals() as signals:
        runtime = {
            "working_dir": folder,
            "env_vars": {RUN_ID: run_id, "RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_SECONDS)},
        }
        try:
            with signals.raised():
                _pack(spec, Path(folder))
                _send(client, run_id, runtime)
        except Signalled:
            _see_what_was_sent(client, run_id, signals.came[0])
        facts = {"run_id": run_id, "address": address, "output": whole(spec.output.path)}
        say(f"run {run_id} is submitted to {address}")
        if not wait and not signals.came:
            return facts, 0
        said, info = asyncio.run(_follow(client, run_id, signals))
    number = signals.came[0] if signals.came else 0
    if said is None:
        raise _died(run_id, info, number, Waiting(client, run_id).cause())
    return said, 128 + number if number and said["exit_code"] else said["exit_code"]


def _send(client: JobSubmissionClient, run_id: str, runtime: dict[str, Any]) -> None:
    began = time.monotonic()
    while True:
        try:
            client.submit_job(entrypoint=ENTRYPOINT, submission_id=run_id, runtime_env=runtime)
            return
        except (OSError, RuntimeError, AuthenticationError) as error:
            starting = "No available agent" in str(error)
            if not starting or time.monotonic() - began > PATIENCE_SECONDS:
                raise unreachable(client.get_address(), str(error)) from None
            time.sleep(1)


def _see_what_was_sent(client: JobSubmissionClient, run_id: str, number: int) -> None:
    """Interrupted, unless the cluster has the job whose sending a signal has cut short."""
    try:
        client.get_job_status(run_id)
    except (OSError, RuntimeError):
        raise _interrupted(number, "nothing was sent", "the same command runs it") from None


def stop(run_id: str, address: str) -> dict[str, Any]:
    """Stops a submitted run and waits for its end; units in flight are finished first."""
    client = _connect(address)
    try:
        client.stop_job(run_id)
        while (info := client.get_job_info(run_id)).status not in ENDED:
            time.sleep(1)
    except RuntimeError as error:
        if "404" not in str(error) and "not exist" not in str(error):
            raise
        what = f"{run_id}: the cluster at {address} has no such run; `status OUT` names those"
        raise SpecError("NO_RUN", run_id, what) from None
    except OSError as error:
        raise unreachable(address, str(error)) from None
    return {"run_id": run_id, "status": str(info.status.value).lower()}


def _connect(address: str) -> JobSubmissionClient:
    """A client of a cluster that has our Ray and asks strangers for a token."""
    try:
        client = JobSubmissionClient(address)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise unreachable(address, str(error)) from None
    base = address.rstrip("/") if "://" in address else client.get_address()
    if _status(f"{base}/api/version") == 200:
        raise TryAgain(
            "OPEN_CLUSTER",
            address,
            "takes jobs from anyone who reaches it",
            "start it with RAY_AUTH_MODE=token; see docs/cluster.md",
        )
    try:
        theirs = client._do_request("GET", "/api/version").json()["ray_version"]
    except OSError as error:
        raise unreachable(address, str(error)) from None
    if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
        what = f"runs Ray {theirs}, this machine has {ray.__version__}"
        raise TryAgain("RAY_VERSION", address, what, "install the same on both")
    return client


def _status(url: str) -> int:
    """What a stranger gets."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:  # the client got through, by a way that is not open to all
        return 0


def _pack(spec: Spec, folder: Path) -> None:
    """Our code and the spec, as the working directory of all processes of the job."""
    ours = Path(__file__).parents[2]  # in a checkout it holds links, which are followed
    unwanted = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(ours, folder / "embedmill", ignore=unwanted)
    (folder / "job.yaml").write_text(dump_spec(travelling(spec)), encoding="utf-8")


async def _follow(
    client: JobSubmissionClient, run_id: str, signals: Signals
) -> tuple[dict[str, Any] | None, JobDetails]:
    """(what the job's last line says, its details); the first signal stops it, a second leaves."""
    lines, stopping, again = _Lines(), False, False
    signals.task = asyncio.current_task()
    while True:
        try:
            if again:  # after what went wrong
                again = False
                await asyncio.sleep(1)
            if signals.came and not stopping:
                stopping = True
                say("stopping the run; once more leaves it")
                with signals.raised():
                    client.stop_job(run_id)
            if len(signals.came) > 1:
                what = f"left run {run_id}, which is stopping"
                raise _interrupted(signals.came[0], what, "the same command resumes")
            info = await _ended(client, run_id, lines)
            return lines.said, info
        except Signalled:  # the second: what stops the job need not be waited for
            continue
        except asyncio.CancelledError:
            signals.task.uncancel()
        except (OSError, RuntimeError, aiohttp.ClientError):  # of the connection; the job may live
            again = True
            try:
                if (info := client.get_job_info(run_id)).status in ENDED:
                    lines.take_all(client.get_job_logs(run_id))  # a proxy may let nothing else by
                    return lines.said, info
            except (OSError, RuntimeError):
                do = f"`embedmill status OUT` shows it, `embedmill stop {run_id}` ends it"
                raise TryAgain("NO_CLUSTER", client.get_address(), LOST, do) from None


async def _ended(client: JobSubmissionClient, run_id: str, lines: _Lines) -> JobDetails:
    """Shows what the job says until it has ended, and what it waits for before it starts."""
    ours, failed = asyncio.current_task(), list[TryAgain]()
    watch = asyncio.ensure_future(_watch(client, run_id, ours, failed))
    try:
        await _tail(client, run_id, lines)
    except asyncio.CancelledError:
        if failed:
            ours.uncancel()
            raise failed[0] from None
        raise
    finally:
        watch.cancel()
    while (info := client.get_job_info(run_id)).status not in ENDED:
        await asyncio.sleep(1)
    return info


async def _watch(
    client: JobSubmissionClient, run_id: str, follower: asyncio.Task, failed: list[TryAgain]
) -> None:
    """Says what a pending job waits for; ends the follower with `failed` if it can never start."""
    waiting = Waiting(client, run_id)
    while True:
        await asyncio.sleep(2)
        if waiting.due():
            try:
                info = client.get_job_info(run_id)
                waiting.look(str(info.status), info.message or "")
            except TryAgain as error:
                failed.append(error)
                follower.cancel()
                return
            except (OSError, RuntimeError):  # the follower finds out by itself
                continue


class _Lines:
    """The job's log as lines: words to stderr, the one JSON object kept."""

    def __init__(self) -> None:
        self.said: dict[str, Any] | None = None
        self._shown = 0

    def take(self, text: str, number: int) -> None:
        """Line `number` of the log; a log that is followed again begins at its first."""
        if number < self._shown:
            return
        self._shown += 1
        with contextlib.suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, dict) and "exit_code" in found:
                self.said = found
                return
        say(text, prefix="")

    def take_all(self, text: str) -> None:
        """The whole log, from its first line."""
        for number, line in enumerate(text.splitlines()):
            self.take(line, number)


async def _tail(client: JobSubmissionClient, run_id: str, lines: _Lines) -> None:
    number, rest = 0, ""
    async for chunk in client.tail_job_logs(run_id):
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            lines.take(line, number)
            number += 1
    if rest:
        lines.take(rest, number)


def _interrupted(number: int, what: str, do: str, place: str = "") -> Interrupted:
    """What ends a command that a signal ended."""
    error = Interrupted("INTERRUPTED", place, what, do)
    error.exit_code = 128 + number
    return error


def _died(run_id: str, info: JobDetails, number: int, cause: str) -> EmbedmillError:
    """The job ended without a word of ours; `cause`: why no worker of the cluster starts."""
    if info.status == "STOPPED":
        number = number or signal.SIGTERM
        said = f"was stopped before it started ({cause})" if cause else "was stopped"
        return _interrupted(number, said, "the same command resumes", run_id)
    what = (info.message or "").strip().splitlines()
    reason = f"its driver ended {what[0] if what else 'without a word'}"
    reason += f" ({cause})" if cause else ""
    return TryAgain("JOB_DIED", run_id, reason, "the same command resumes")
