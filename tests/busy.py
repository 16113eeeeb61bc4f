"""Runs tests round by round beside busy neighbours; prints each test whose result is not the same.

    python tests/busy.py [--neighbours 4] [--rounds 3] [what pytest is given]

The neighbours are processes that only count, and one that writes to the disk. Ends with 1 if a
round failed or a test had two results.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
BLOCK, BLOCKS = bytes(1 << 20), 64  # the file never has more than so many blocks
ABSENT = "did not run"
WORST = ["failed", "error", "skipped", "passed"]  # of several entries of one test


def count(parent: int) -> None:
    """Keeps a core busy as long as the parent lives."""
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


def write(parent: int, path: str) -> None:
    """Writes to the disk, again and again over the same place, as long as the parent lives."""
    with open(path, "wb") as file:
        for number in itertools.count():
            if os.getppid() != parent:
                return
            file.seek(number % BLOCKS * len(BLOCK))
            file.write(BLOCK)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def neighbours(number: int, folder: Path) -> Iterator[None]:
    """So many processes that count and one that writes, until left."""
    me = os.getpid()
    processes = [multiprocessing.Process(target=count, args=(me,)) for _ in range(number)]
    processes.append(multiprocessing.Process(target=write, args=(me, str(folder / "written"))))
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def results(path: Path) -> dict[str, str]:
    """The result of each test of a round, from pytest's JUnit file."""
    found: dict[str, str] = {}
    if not path.exists():  # pytest ended before its first test
        return found
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
        result = next((kinds[child.tag] for child in case if child.tag in kinds), "passed")
        found[name] = min(result, found.get(name, result), key=WORST.index)
    return found


def different(rounds: list[dict[str, str]]) -> dict[str, list[str]]:
    """Tests that had more than one result, with the result of each round."""
    names = dict.fromkeys(name for one in rounds for name in one)
    every = {name: [one.get(name, ABSENT) for one in rounds] for name in names}
    return {name: had for name, had in every.items() if len(set(had)) > 1}


def main() -> int:
    parser = argparse.ArgumentParser(usage=(__doc__ or "").split("\n")[2].strip())
    parser.add_argument("--neighbours", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    chosen, given = parser.parse_known_args()
    rounds, codes = [], []
    with tempfile.TemporaryDirectory(prefix="em-busy-") as name:
        folder = Path(name)
        with neighbours(chosen.neighbours, folder):
            for number in range(1, chosen.rounds + 1):
                print(f"round {number} of {chosen.rounds}", flush=True)
                told = folder / f"{number}.xml"
                command = [sys.executable, "-m", "pytest", f"--junitxml={told}", *given]
                codes.append(subprocess.run(command, cwd=ROOT).returncode)
                rounds.append(results(told))
    found = different(rounds)
    for test, had in found.items():
        print(f"{test}: {', '.join(had)}")
    failed = sum(map(bool, codes))
    print(f"{len(found)} tests with different results, {failed} of {len(codes)} rounds failed")
    return int(bool(found or failed))


if __name__ == "__main__":
    sys.exit(main())
