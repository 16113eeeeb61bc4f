"""Encodes a unit in a process of its own, which may die of it, and finds the rows that kill.

    whole unit -> dead? -> its halves, and the halves of those -> single rows -> whole without them

The rows that are found are recorded before the rest is encoded, so that every later attempt leaves
out the same ones: the part is a function of the plan and of these rows. A unit that was merely
unlucky comes through as it is.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from embedmill.pipeline import flow, load
from embedmill.pipeline.batches import Encoded
from embedmill.pipeline.canary import Canary
from embedmill.pipeline.run.attempts import MOST, note_poison, poison_of
from embedmill.pipeline.run.signals import unheard
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import EmbedmillError, InputError, ModelError, TryAgain
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.terminal import say

MOST_ROWS = 16  # of one unit that kill; if there are more, it is not the rows that are bad
SERVE = "from embedmill.pipeline.run.isolated import serve; serve()"


def encode_apart(plan: Plan, unit: Unit) -> Encoded:
    """The unit without the rows that kill, which are rejects with the code CRASHED.

    Raises what the unit raises; InputError, ModelError or TryAgain if it is no row that kills.
    """
    what = f"unit {unit.key} was begun {MOST} times and not finished"
    say(f"{what}; encoding it in a process of its own")
    store = open_store(plan.output)
    poison, looked = poison_of(store, unit), False
    with _Child(plan) as child:
        while (encoded := child.encode(unit, poison)) is None:
            if child.encode(unit, range(unit.rows)) is None:
                raise _unreadable(child, unit)
            rest = [row for row in range(unit.rows) if row not in poison]
            if not (found := _find(child, unit, rest)) and looked:
                raise _no_row(child, unit)
            looked = True
            poison = note_poison(store, unit, [*poison, *found]) if found else poison
            if len(poison) > MOST_ROWS:
                raise _too_many(child, unit)
    return encoded


def _find(child: _Child, unit: Unit, rows: list[int]) -> list[int]:
    """Of rows of which the process dies together, those of which it dies alone."""
    if len(rows) == 1:  # twice alone: a death of something else is no proof
        others = set(range(unit.rows)).difference(rows)
        return rows if child.encode(unit, sorted(others)) is None else []
    found: list[int] = []
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        others = set(range(unit.rows)).difference(part)
        if len(found) <= MOST_ROWS and child.encode(unit, sorted(others)) is None:
            found += _find(child, unit, part)
    return found


class _Child:
    """A process with a tokenizer and an encoder; a new one whenever it has died."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.how = plan, ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._end()

    def encode(self, unit: Unit, without: Iterable[int]) -> Encoded | None:
        """The unit, without some of its rows; None if the process died, `how` says of what."""
        if self._process is None:
            path = os.pathsep.join(place or os.getcwd() for place in sys.path)
            with unheard(signal.SIGTERM):  # what stops the run is for the driver, which decides
                self._process = subprocess.Popen(
                    [sys.executable, "-c", SERVE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": path},
                    start_new_session=True,  # and so is a terminal's Ctrl-C
                )
            if self._ask(self.plan) is None:
                what = f"a process that loads it dies ({self.how})"
                do = "does this machine have the memory and the instructions for it?"
                raise ModelError("ENCODER_CRASHES", self.plan.model["name"], what, do)
        return self._ask((unit, tuple(without)))

    def _ask(self, request: Any) -> Any:
        """The answer; None if the process dies of the request. What it raises is raised here."""
        assert self._process and self._process.stdin and self._process.stdout
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            self._end()
            return None
        if isinstance(answer, EmbedmillError):
            raise answer
        return answer

    def _end(self) -> None:
        assert self._process and self._process.stdin and self._process.stdout
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)  # it is dead, or will be
        self._process.kill()
        code = self._process.wait()
        self.how = f"signal {-code}" if code < 0 else f"exit code {code}"
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process = None


def serve() -> None:
    """The child: a plan on stdin, then units; on stdout an answer to each, until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whoever prints here does not speak to the parent
    with contextlib.suppress(OSError):  # if memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    plan: Plan = pickle.load(sys.stdin.buffer)
    for answer in _answers(plan):
        pickle.dump(answer, answers, protocol=5)
        answers.flush()


def _answers(plan: Plan) -> Iterator[Any]:
    """First "ready", then an Encoded for each unit on stdin; an error is the last answer."""
    try:
        tokenizer, encoder = load.load_tokenizer(plan), load.load_encoder(plan)
        canary = Canary(plan, encoder)
        yield "ready"
        while True:
            unit, without = pickle.load(sys.stdin.buffer)
            encoded = flow.encode(plan, encoder, flow.prepare(plan, unit, tokenizer, without))
            canary.check()
            yield encoded
    except EmbedmillError as error:
        yield error
    except (EOFError, MemoryError):
        raise SystemExit(
            1
        ) from None  # the parent has enough; or the unit takes all memory there is
    except Exception as error:  # a bug of ours is no row's fault
        traceback.print_exc()
        what, do = f"{type(error).__name__}: {error}", "please report it with the lines above"
        yield EmbedmillError("BUG", "", what, do)


def _unreadable(child: _Child, unit: Unit) -> EmbedmillError:
    """It dies before a single row is looked at: which shard does it die of?"""
    for piece in unit.slices:
        if child.encode(Unit(unit.key, (piece,)), range(piece.rows)) is None:
            what = f"the process that reads it dies ({child.how})"
            return InputError("UNREADABLE", piece.shard.uri, what, "take it out of input.path")
    return _no_row(child, unit)


def _no_row(child: _Child, unit: Unit) -> EmbedmillError:
    return TryAgain(
        "UNIT_CRASHES",
        ", ".join(
            f"{s.shard.uri}, rows {s.start} to {s.start + s.rows - 1}" for s in unit.slices[:3]
        ),
        f"the process that encodes these rows dies ({child.how}), and of none of them alone",
        "give it more memory, or run into a new output.path with a lower run.unit_rows",
    )


def _too_many(child: _Child, unit: Unit) -> EmbedmillError:
    return ModelError(
        "ENCODER_CRASHES",
        f"{unit.slices[0].shard.uri}, from row {unit.slices[0].start}",
        f"the process that encodes these rows dies of more than {MOST_ROWS} of them ({child.how})",
        "suspect the model, the software or the device: verify another machine, then run again",
    )
