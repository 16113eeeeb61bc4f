"""A job whose processes are killed, one after the other, until the same command has ended it.

A history is drawn from a seed: which process dies, and when. It goes on until so many were killed
and a run came to its end; then what is there is compared with what an undisturbed run makes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.pipeline.store.output import open_store
from tests.faults.forked import Forked
from tests.faults.points import environment
from tests.faults.processes import write_spec
from tests.patience import LONG, SOON
from tests.tiny import save_model, save_sentence_folder, write_json

SHARDS, SHARD_ROWS, UNIT_ROWS = 20, 16, 8
DRIVER = "driver"
# What stands in the command line of a process of a run -> what that process does.
KINDS = {
    "MapWorker(MapBatches(": "encoder",
    "ray::": "worker",
    "raylet/raylet": "raylet",
    "--multiprocessing-fork": "worker",
    "spawn_main": "worker",
}
NEVER = ("Agent", "IDLE")  # Ray's own helpers, and processes that do nothing
MOST_RUNS = 40


@dataclass(slots=True)
class Job:
    """Texts, a tiny model, and the parts that a run makes of them which nobody disturbs."""

    folder: Path
    calm: dict[str, bytes] = field(default_factory=dict)

    @property
    def texts(self) -> Path:
        return self.folder / "in"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def spec(self, name: str, output: str, **run: Any) -> Path:
        """A spec file of it."""
        path = self.folder / f"{name}.yaml"
        settings = {"unit_rows": UNIT_ROWS, "device": "cpu", **run}
        return write_spec(path, self.texts, str(self.model), output, **settings)


def make_job(folder: Path) -> Job:
    """The job in a folder; what is there already is used again."""
    job = Job(folder)
    if not job.model.exists():
        job.model.mkdir(parents=True)
        save_model(job.model)
        limits = {"max_seq_length": 128, "do_lower_case": False}
        save_sentence_folder(
            job.model, ("Transformer", ""), ("Pooling", "1_Pooling"), sentence_bert_config=limits
        )
        pooling = {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True}
        write_json(job.model / "1_Pooling" / "config.json", pooling)
    if not job.texts.exists():
        job.texts.mkdir()
        for shard in range(SHARDS):
            ids = [f"{shard}-{row}" for row in range(SHARD_ROWS)]
            texts = [f"the old river {shard} flows to the sea {row}" for row in range(SHARD_ROWS)]
            table = pa.table({"id": ids, "text": texts})
            pq.write_table(table, job.texts / f"{shard:02d}.parquet", row_group_size=UNIT_ROWS)
    calm = str(folder / "calm")
    if not (folder / "calm").exists():
        with begin(job.spec("calm", calm), "inline", folder / "calm-run", {}) as run:
            assert run.wait() == 0, (folder / "calm-run" / "err").read_text()
    job.calm = parts(calm)
    return job


class Started(subprocess.Popen):
    """A command as a user starts it; what it prints goes to files."""

    def __init__(self, folder: Path, command: list[str], more: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **more}
            super().__init__(command, stdout=out, stderr=err, start_new_session=True, env=environ)
        self.out, self.err = folder / "out", folder / "err"

    def __exit__(self, *_: object) -> None:
        self.kill()  # a test that fails does not wait for what it has stopped
        self.wait()


Process = Forked | Started


def begin(spec: Path, runner: str, folder: Path, more: dict[str, str]) -> Process:
    """`embedmill run SPEC`."""
    arguments = ("run", str(spec), "--json", "--set", f"run.runner={runner}")
    if runner == "inline":
        return Forked(folder, *arguments, **more)
    return Started(folder, [sys.executable, "-m", "embedmill", *arguments], more)


def ended(process: Process) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a run."""
    code = process.wait(LONG)
    return code, process.out.read_text(), process.err.read_text()


@dataclass(slots=True)
class History:
    """Kills of one seed, and what they led to."""

    seed: int
    start: Callable[[int, Path], Process]  # the n-th run of the command
    visible: Callable[[], set[str]]  # names of the parts that are there
    whole: int  # parts in the end
    folder: Path
    seconds: float  # one run, about
    kills: list[dict[str, Any]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    standing: list[set[str]] = field(default_factory=list)  # parts before each run of the command

    def play(self, kills: int) -> History:
        """The command again and again, until so many were killed and it came to its end."""
        rng, orphans = random.Random(self.seed), []
        while not self.codes or self.codes[-1] != 0:
            assert len(self.codes) < MOST_RUNS, f"seed {self.seed} never ends: {self.codes}"
            self.standing.append(self.visible())
            process = self.start(len(self.codes), self.folder / f"run-{len(self.codes)}")
            began = time.monotonic()
            while len(self.kills) < kills and self._wait(rng, process, began):
                orphans += self._kill(rng, process, began)
            self.codes.append(process.wait(LONG))
        psutil.wait_procs(orphans, SOON)  # who outlives a driver may still write
        return self

    def _wait(self, rng: random.Random, process: Process, began: float) -> bool:
        """Until a moment of the run; False if it ended before."""
        there = len(self.visible())
        parts = rng.randrange(there, self.whole) + 1 if there < self.whole else 0
        late = began + rng.uniform(0, self.seconds) if rng.random() < 0.4 else None
        deadline = time.monotonic() + LONG
        while process.poll() is None and time.monotonic() < deadline:
            if late is not None and time.monotonic() > late:
                break
            if late is None and len(self.visible()) >= parts:
                time.sleep(rng.uniform(0, 0.1))
                break
            time.sleep(self.seconds / 200)
        return process.poll() is None

    def _kill(self, rng: random.Random, process: Process, began: float) -> list[psutil.Process]:
        """kill -9 of one process of the run; its processes, if that was the driver."""
        family = _family(process.pid)
        kind = rng.choice(sorted({kind for kind, _ in family}))
        victim = rng.choice([one for other, one in family if other == kind])
        there = len(self.visible())
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            at = round(time.monotonic() - began, 2)
            run = len(self.codes)
            done = self._begun(run) if kind in ("worker", "encoder") else set()  # else: in the end
            facts = {"kind": kind, "run": run, "at": at, "there": there, "begun": len(done)}
            self.kills.append(facts)
            if kind == DRIVER:
                process.wait(SOON)
        return [one for _, one in family] if kind == DRIVER else []

    def _begun(self, run: int) -> set[str]:
        """Keys of the units that a run has begun or found done."""
        noted = self.folder / f"run-{run}" / "encoded"
        done = {name.partition("-")[0] for name in self.standing[run]}
        return done.union(noted.read_text().split() if noted.exists() else ())

    def in_flight(self) -> int:
        """Units, over all kills, that were begun and no part when a process died."""
        last = [len(self._begun(run)) for run in range(len(self.codes))]
        return sum((k["begun"] or last[k["run"]]) - k["there"] for k in self.kills)


def _family(pid: int) -> list[tuple[str, psutil.Process]]:
    """(what it does, process) of a run's processes that do something."""
    found = []
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        found.append((DRIVER, driver))
        for child in driver.children(recursive=True):
            with suppress(psutil.Error):
                line = " ".join(child.cmdline())
                kind = next((kind for word, kind in KINDS.items() if word in line), None)
                if kind and not any(word in line for word in NEVER):
                    found.append((kind, child))
    return found


def parts(output: str) -> dict[str, bytes]:
    """Name and bytes of every part."""
    store = open_store(output)
    return {Path(name).name: store.read(name) for name in store.list("data")}


def disturb(
    job: Job, seed: int, runner: str, output: str, folder: Path, kills: int,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """One history of the job, and what it cost. `more`: settings of the run, and `environment`."""
    said = more.pop("environment", {})
    spec = job.spec(f"spec-{seed}", output, **more)

    def start(number: int, run: Path) -> Process:
        run.mkdir(parents=True)
        return begin(spec, runner, run, {**said, **environment("", 0, run)})

    def visible() -> set[str]:
        return {Path(name).name for name in open_store(output).list("data")}

    began = time.monotonic()
    seconds = {"inline": 3.0, "ray": 25.0}[runner]
    history = History(seed, start, visible, len(job.calm), folder, seconds).play(kills)
    return {
        "seed": seed, "runner": runner, "workers": more.get("workers"),
        "store": output.partition("://")[0] if "://" in output else "local",
        "kills": history.kills, "codes": history.codes,
        **compared(job.calm, parts(output)), **_repeated(history),
        "manifests": sum(n.endswith(".json") for n in open_store(output).list("_embed/manifest")),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _repeated(history: History) -> dict[str, int]:
    """Units that an encoder began again; `redone`: whose part was there before that run."""
    total: Counter[str] = Counter()
    redone = 0
    for number, standing in enumerate(history.standing):
        noted = history.folder / f"run-{number}" / "encoded"
        begun = Counter(noted.read_text().split() if noted.exists() else [])
        total += begun
        redone += len({name.partition("-")[0] for name in standing} & begun.keys())
    return {
        "units": len(total), "repeated": total.total() - len(total),
        "in_flight": history.in_flight(), "redone": redone,
    }  # fmt: skip


def compared(wanted: dict[str, bytes], found: dict[str, bytes]) -> dict[str, Any]:
    """Rows that are lost, twice, or have another vector; and whether all bytes are equal."""
    right, rows = _rows(wanted), _rows(found)
    return {
        "equal": wanted == found,
        "lost": len(right.keys() - rows.keys()),
        "twice": sum(len(values) - 1 for values in rows.values()),
        "wrong": sum(any(v not in right[key] for v in rows[key]) for key in rows.keys() & right),
    }


def _rows(found: dict[str, bytes]) -> dict[str, list[bytes]]:
    """Every id with all its vectors."""
    rows: dict[str, list[bytes]] = {}
    for data in found.values():
        table = pq.read_table(pa.BufferReader(data), columns=["id", "vector"])
        for row in table.to_pylist():
            rows.setdefault(row["id"], []).append(repr(row["vector"]).encode())
    return rows
