"""Crash points: named moments of a run at which a test ends or stops one of its processes.

The product knows nothing of them. In a process that a test has started, `arm` puts wrappers around
functions of the shipped modules, as these are imported; at the wanted moment the process sends
itself, or the run that it belongs to, a signal. What to do is told by the environment variable
EMBEDMILL_TEST_POINT, so that workers on Ray know it as well. Imports nothing heavy.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.patience import LONG, wait_until

VARIABLE, OF_DRIVER = "EMBEDMILL_TEST_POINT", "EMBEDMILL_TEST_DRIVER"
DRIVER, WORKER, ACTOR = "driver", "worker", "actor"
Over = Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after one call of one function."""

    what: str
    where: str  # module:attribute
    after: bool
    role: str  # which process of a run on Ray comes here
    only: str = ""  # calls with a string or path among their arguments that has this in it
    hit: int = 1  # of these calls, in all processes of the run
    bucket: str = ""  # where it is if the output is in a bucket, and that is elsewhere
    scratch: float = 0.0  # the share of the object that is in a scratch file then


HERE = Path(__file__).resolve().parent
LOCAL, BUCKET = (
    "embedmill.pipeline.store.local:LocalStore",
    "embedmill.pipeline.store.bucket:BucketStore",
)
PUT, CREATE, DELETE = f"{BUCKET}._put", f"{BUCKET}.create", f"{BUCKET}.delete"
POINTS = {  # CP17 in a sink's load, CP18 before it is published: tests/pipeline/index/test_kills.py
    "CP1": Point("before the plan", "embedmill.jobs.run:make_plan", False, DRIVER),
    "CP2": Point(
        "plan stored, answer lost", f"{LOCAL}.create", True, DRIVER, "plan/", 2, bucket=CREATE
    ),
    "CP3": Point(
        "among the footers", "embedmill.pipeline.plan.shards:_read_footer", False, DRIVER, hit=2
    ),
    "CP4": Point("a unit was read", "embedmill.pipeline.flow:read_unit", True, WORKER, hit=2),
    "CP5": Point(
        "in the tokenizer",
        "embedmill.pipeline.tokens.tokenizer:Tokenizer.encode",
        False,
        WORKER,
        hit=2,
    ),
    "CP6": Point("in the encoder", "embedmill.pipeline.flow:unit_vectors", False, ACTOR, hit=2),
    "CP7": Point(
        "scratch half written", f"{LOCAL}._attempt", False, WORKER, "data/", 2, scratch=0.5
    ),
    "CP8": Point(
        "scratch not verified", f"{LOCAL}._attempt", False, WORKER, "data/", 2, scratch=1.0
    ),
    "CP9": Point("rejects, no part", f"{LOCAL}.create", True, WORKER, "rejects/", bucket=CREATE),
    "CP10": Point("before the link or PUT", "os:link", False, WORKER, "data/", 2, bucket=PUT),
    "CP11": Point("done, not answered", "os:link", True, WORKER, "data/", 2, bucket=PUT),
    "CP12": Point("committed, not told", "embedmill.pipeline.flow:commit", True, WORKER, hit=2),
    "CP13": Point("all units, no manifest", "embedmill.jobs.run:commit_snapshot", False, DRIVER),
    "CP14": Point(
        "manifest, no answer", "os:link", True, DRIVER, "manifest/000002.json", bucket=PUT
    ),
    "CP15": Point("manifest, no gc", "embedmill.jobs.run:collect", False, DRIVER),
    "CP16": Point("in the gc", f"{LOCAL}.delete", True, DRIVER, "data/", bucket=DELETE),
}
# Not a moment to end at, but one to make a disk fail at.
WRITE = Point("before a part is written", f"{LOCAL}._attempt", False, WORKER, "data/", 3)


def environment(
    name: str,
    number: int,
    folder: Path,
    *,
    driver: bool = False,
    bucket: bool = False,
    clock: bool = False,
    hit: int | None = None,
) -> dict[str, str]:
    """What a process must find to send the signal `number` at a point; without a name, none.

    `name`: several, with spaces between them, count for themselves in a folder each.
    `folder`: an empty folder, for the processes to know of each other. `driver`: the signal goes to
    the run itself, and not to the process that came to the point. `bucket`: the output is in one.
    `clock`: it jumps. `hit`: at which call, if not at the point's own.
    """
    order = {"point": name, "signal": number, "folder": str(folder)}
    order |= {"driver": driver, "bucket": bucket, "clock": clock, "hit": hit}
    for own in (folder, *(folder / one for one in name.split()[1:] and name.split())):
        own.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE / "site"), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {VARIABLE: json.dumps(order), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def wait_for(folder: Path, stopped: bool = False, over: Over = lambda: None) -> tuple[int, int]:
    """The process that got the signal, once it did, and the thread that came to the point.

    `stopped`: once it stands still. `over`: the run's `poll`; one that ends before is an error.
    """

    def fired() -> bool:
        return (folder / "fired").exists()

    wait_until(lambda: fired() or over() is not None, "a process comes to its point", LONG)
    assert fired(), f"the run ended with {over()} before any process came to its point"
    pid, thread = map(int, (folder / "fired").read_text().split())
    if stopped:
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: " (stopped)" in status.read_text(), "it stands still")
    return pid, thread


def arm() -> None:
    """Wraps what the order asks for, now or when it is imported."""
    order = json.loads(os.environ[VARIABLE])
    os.environ.setdefault(OF_DRIVER, str(os.getpid()))  # the first process of a run is the driver
    wanted = {"embedmill.pipeline.flow": [functools.partial(_wrap, "encode", order, _note_unit)]}
    if order["clock"]:
        _let_the_clock_jump(wanted)
    names = order["point"].split()
    for name in names:
        point = POINTS.get(name, WRITE)
        where = (order["bucket"] and point.bucket) or point.where
        module, _, attribute = where.partition(":")
        own = order | {"folder": f"{order['folder']}/{name}"} if names[1:] else order
        wrap = functools.partial(_wrap, attribute, own, functools.partial(_at, point))
        wanted.setdefault(module, []).append(wrap)
    for module in [name for name in wanted if name in sys.modules]:
        for wrap in wanted.pop(module):
            wrap(sys.modules[module])
    if wanted:
        sys.meta_path.insert(0, _AfterImport(wanted))


class _AfterImport(MetaPathFinder):
    """Wraps functions of modules as soon as they are loaded."""

    def __init__(self, wanted: dict[str, list[Callable[[ModuleType], None]]]) -> None:
        self.wanted = wanted

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in self.wanted:
            return None
        wraps = self.wanted.pop(name)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_wrap(module: ModuleType) -> None:
            load(module)
            for wrap in wraps:
                wrap(module)

        spec.loader.exec_module = load_and_wrap
        return spec


def _wrap(attribute: str, order: dict, around: Callable, module: ModuleType) -> None:
    """Replaces module.attribute, or a method, by itself with something around it."""
    owner: Any = module
    *path, last = attribute.split(".")
    for name in path:
        owner = getattr(owner, name)
    real = getattr(owner, last)

    @functools.wraps(real)
    def wrapped(*args: Any, **named: Any) -> Any:
        return around(order, real, *args, **named)

    setattr(owner, last, wrapped)


def _at(point: Point, order: dict, real: Callable, *args: Any, **named: Any) -> Any:
    meant = not point.only or any(point.only in str(a) for a in args if isinstance(a, str | Path))
    if not meant:
        return real(*args, **named)
    if point.after:
        result = real(*args, **named)
        _reached(point, order)
        return result
    left = _scratch(point.scratch, *args) if point.scratch else None
    _reached(point, order)
    if left:
        left.unlink(missing_ok=True)
    return real(*args, **named)


def _scratch(share: float, store: Any, target: Path, data: Any) -> Path:
    """A scratch file that a writer is in the middle of, or has closed."""
    content = bytes(data)
    path = store.root / "_embed" / "scratch" / f"{os.getpid()}-{target.stem}.attempt"
    path.write_bytes(content[: int(share * len(content))])
    return path


def _note_unit(order: dict, real: Callable, *args: Any, **named: Any) -> Any:
    """Keeps a line for every unit that an encoder begins: encode(plan, encoder, prepared)."""
    line = f"{args[2].unit.key}\n".encode()
    handle = os.open(f"{order['folder']}/encoded", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line)
    os.close(handle)
    return real(*args, **named)


def _let_the_clock_jump(wanted: dict[str, list]) -> None:
    """The time of day is up to twenty minutes off, and another way at every look."""
    chance, real = random.Random(os.getpid()), time.time
    time.time = lambda: real() + chance.uniform(-1200, 1200)

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return super().now(tz) + datetime.timedelta(seconds=chance.uniform(-1200, 1200))

    def wrap(module: ModuleType) -> None:
        module.datetime = SimpleNamespace(datetime=Jumping, UTC=datetime.UTC)

    wanted.setdefault("embedmill.pipeline.run.log", []).append(wrap)


def _reached(point: Point, order: dict) -> None:
    """Counts this moment over all processes; at the wanted one sends the signal, once."""
    folder, number = Path(order["folder"]), 1
    if (folder / "off").exists():  # a test lets it be for now
        return
    while not _first(folder / f"hit-{number}"):
        number += 1
    if number != (order["hit"] or point.hit):
        return
    victim = int(os.environ[OF_DRIVER]) if order["driver"] else os.getpid()
    (folder / "fired.part").write_text(f"{victim} {threading.get_native_id()}")
    (folder / "fired.part").rename(folder / "fired")
    if victim == os.getpid() and order["signal"] == signal.SIGSTOP:
        # To this thread: one to the process waits for the main thread, and this one would go on.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    else:
        os.kill(victim, order["signal"])


def _first(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
