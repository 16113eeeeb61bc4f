"""`schedule`: the file that a scheduler wants, on stdout. Nothing is installed or started.

A scheduled run is the same run again: what is committed is skipped, what is new becomes new units,
and a run that overlaps another adopts its units. So a schedule needs no lock and no state.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedmill.jobs.cluster.portable_spec import travelling
from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec import Spec
from embedmill.schemas.spec_file.load import dump_spec

MACROS = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly")
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
DAYS = "sun mon tue wed thu fri sat".split()
# field -> least, greatest, names of the values from the least on
FIELDS: dict[str, tuple[int, int, list[str]]] = {
    "minute": (0, 59, []),
    "hour": (0, 23, []),
    "day": (1, 31, []),
    "month": (1, 12, MONTHS),
    "weekday": (0, 7, DAYS),
}
DAYS_TO = {"crontab": 7, "airflow": 7, "kuberay": 6}  # the greatest number of a weekday
NAME = 31  # letters: KubeRay takes 47, of which "embedmill-" and a run's own five are not ours
DAG = '''"""Embedmill: {name}, {cron}. Printed by `embedmill schedule`, for Airflow's DAG folder.

Airflow's environment needs ray[default]=={ray} and the cluster's token, in RAY_AUTH_TOKEN or
~/.ray/auth_token; the cluster's image needs embedmill.
"""

from __future__ import annotations

import os
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import dag, task

ADDRESS = {address!r}
SPEC = {spec!r}


@dag(
    dag_id={name!r},
    schedule={cron!r},
    start_date=datetime(2026, 1, 1),
    catchup=False,  # a run brings the output up to date, whatever was missed
    max_active_runs=1,
)
def embedmill():
    @task(retries=3, retry_delay=timedelta(minutes=10))  # a retry resumes
    def run():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.job_submission import JobStatus, JobSubmissionClient

        client = JobSubmissionClient(ADDRESS)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "job.yaml").write_text(SPEC, encoding="utf-8")
            grace = {{"RAY_JOB_STOP_WAIT_TIME_S": "600"}}  # a stopped run finishes its units
            job = client.submit_job(
                entrypoint="embedmill run job.yaml --json",
                runtime_env={{"working_dir": folder, "env_vars": grace}},
            )
        try:
            while not (status := client.get_job_status(job)).is_terminal():
                time.sleep(10)
        except BaseException:  # Airflow ends the task: the job is to end as well
            client.stop_job(job)
            raise
        print(client.get_job_logs(job))
        if status != JobStatus.SUCCEEDED:
            raise RuntimeError(f"{{job}} ended as {{status}}: {{client.get_job_info(job).message}}")

    run()


embedmill()
'''


def schedule(
    spec: Spec,
    path: str,
    cron: str,
    to: str,
    *,
    sets: Sequence[str] = (),
    address: str | None = None,
    image: str = "",
    ray_cron_job: bool = False,
) -> str:
    """The scheduler's file. `path` and `sets` are where the spec came from."""
    check_cron(cron, DAYS_TO[to])
    name = f"embedmill-{_short_name(path)}"
    if to == "crontab":
        return _crontab(path, sets, cron, address)
    if to == "airflow":
        if address is None:
            raise _wrong("--address: the DAG submits to a cluster; name it")
        return _dag(spec, name, cron, address)
    from embedmill.jobs.cluster.kuberay import manifests

    return manifests(spec, name, cron, image, ray_cron_job=ray_cron_job)


def _short_name(path: str) -> str:
    """The spec's name in letters that Kubernetes takes, at most NAME of them, and its own."""
    plain = re.sub(r"[^a-z0-9]+", "-", Path(path).stem.lower()).strip("-")
    if plain and len(plain) <= NAME:
        return plain
    unlike = hashlib.sha256(str(Path(path).absolute()).encode()).hexdigest()[:8]
    return f"{plain[: NAME - 9]}-{unlike}".lstrip("-").replace("--", "-")


def check_cron(cron: str, last_day: int = 7) -> None:
    """SpecError unless it is five fields as the scheduler reads them: Sunday is 0, or also 7."""
    if cron in MACROS:
        return
    fields = cron.split()
    if len(fields) != len(FIELDS):
        raise _wrong(f"--cron: {cron!r} has {len(fields)} fields; five are: {', '.join(FIELDS)}")
    known = {**FIELDS, "weekday": (0, last_day, DAYS)}
    for text, (name, bounds) in zip(fields, known.items(), strict=True):
        if not all(_fits(item.lower(), *bounds) for item in text.split(",")):
            least, greatest, _ = bounds
            raise _wrong(f"--cron: {text!r} is no {name}; it goes from {least} to {greatest}")


def _fits(item: str, least: int, greatest: int, names: list[str]) -> bool:
    """One of *, N, N-M, each with /STEP."""
    span, slash, step = item.partition("/")
    if slash and not (step.isdecimal() and 1 <= int(step) <= greatest):
        return False
    if span == "*":
        return True
    ends = [str(names.index(end) + least) if end in names else end for end in span.split("-")]
    if len(ends) > 2 or not all(end.isascii() and end.isdecimal() for end in ends):
        return False
    values = [int(end) for end in ends]
    return least <= values[0] <= values[-1] <= greatest and (not slash or len(values) == 2)


def _crontab(path: str, sets: Sequence[str], cron: str, address: str | None) -> str:
    """One line: the folder of now, the spec, and a log beside it."""
    installed = Path(sys.executable).with_name("embedmill")
    command = [str(installed)] if installed.exists() else [sys.executable, "-m", "embedmill"]
    whole = Path(path).absolute()
    command += ["submit" if address else "run", str(whole)]
    command += ["--address", address] if address else []
    command += [word for item in sets for word in ("--set", item)]
    log = whole.with_suffix(".log")
    line = f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(command)}"
    line += f" >> {shlex.quote(str(log))} 2>&1"
    if "\n" in line:
        raise _wrong("a crontab has one line a job, and this one has a line break inside")
    return f"{cron} {line.replace('%', chr(92) + '%')}"  # cron ends a command at a plain %


def _dag(spec: Spec, name: str, cron: str, address: str) -> str:
    from importlib.metadata import version

    facts: dict[str, Any] = {"name": name, "cron": cron, "address": address}
    return DAG.format(**facts, spec=dump_spec(travelling(spec)), ray=version("ray")).rstrip()


def _wrong(what: str) -> SpecError:
    return SpecError("SCHEDULE", "", what)
