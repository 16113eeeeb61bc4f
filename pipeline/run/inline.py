"""The runner without Ray: one encoder in this process, reading and writing beside it.

On one or two cores a thread reads and tokenizes (the tokenizer releases the interpreter), above
that `workers` spawned processes do. A GPU has the packs of the next unit before the table of the
last one is put together. One unit more than there are workers is prepared ahead and a few may wait
to be written, so memory does not grow with the corpus.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any

from embedmill.pipeline import flow, load
from embedmill.pipeline.batches import Encoded, Prepared
from embedmill.pipeline.canary import Canary
from embedmill.pipeline.run import attempts
from embedmill.pipeline.run.isolated import encode_apart
from embedmill.pipeline.run.receipt import Receipt
from embedmill.pipeline.run.signals import unheard
from embedmill.pipeline.store.output import open_store
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.errors import TryAgain
from embedmill.schemas.plan import Plan, Unit
from embedmill.schemas.spec import Run

if TYPE_CHECKING:
    from embedmill.pipeline.contracts import Encoder

_process: dict[str, tuple[Plan, Tokenizer]] = {}  # of a spawned worker: set once, then read
Given = Prepared | Unit  # a unit as it is may have killed a process: it is encoded apart


def run_inline(
    plan: Plan, units: list[Unit], stop_name: str, run: Run
) -> Generator[Receipt, None, None]:
    """Commits every unit; yields a receipt for each.

    Once the object `stop_name` is in the output's store, no unit is begun.
    """
    if not units:
        return
    store = open_store(plan.output)
    waiting = deque(units)
    pool, prepare, count = _preparers(plan, run.workers)
    lanes, writers = _lanes(plan)
    ahead: deque[Future[Given]] = deque()
    encodes: deque[Future[Encoded]] = deque()
    writes: deque[Future[Receipt]] = deque()
    lane = ThreadPoolExecutor(lanes, "encode")
    with pool, lane, ThreadPoolExecutor(writers, "write") as writer:
        submit = lane.submit if lanes > 1 else _at_once
        try:
            with unheard(signal.SIGINT):  # the terminal sends it to all; this process decides
                _fill(ahead, waiting, pool, prepare, count)
            encoder = canary = None
            while ahead and store.size(stop_name) is None:
                try:
                    given = ahead.popleft().result()
                    _fill(ahead, waiting, pool, prepare, count)
                except BrokenExecutor:
                    if store.size(stop_name) is None:
                        raise
                    break  # what stops the run has ended those that read for it, too
                # If all is reused, none is needed.
                if encoder is None and isinstance(given, Prepared) and len(given.cu_P1) > 1:
                    encoder = load.load_encoder(plan)
                    canary = Canary(plan, encoder)
                encodes.append(submit(_encode, plan, encoder, canary, given))
                del given
                while len(encodes) >= lanes:
                    writes.append(writer.submit(_commit, plan, encodes.popleft().result()))
                while writes and (len(writes) > writers + 1 or writes[0].done()):
                    yield writes.popleft().result()
            while encodes:
                writes.append(writer.submit(_commit, plan, encodes.popleft().result()))
            while writes:
                yield writes.popleft().result()
        except BrokenExecutor:
            what = "a process that reads and tokenizes was killed"
            raise TryAgain("WORKER_LOST", "", what, "the same command resumes") from None
        finally:
            lane.shutdown(wait=False, cancel_futures=True)
            pool.shutdown(wait=False, cancel_futures=True)


def _lanes(plan: Plan) -> tuple[int, int]:
    """Threads that encode, and threads that write.

    On a CPU one of each, and the one that encodes is this one: it has the threads of the plan. A
    GPU is done with a unit sooner than one thread can write it.
    """
    if plan.settings.device == "cpu":
        return 1, 1
    return 2, max(1, min(4, cores() // 4))


def _at_once(work: Callable[..., Encoded], *given: Any) -> Future[Encoded]:
    done: Future[Encoded] = Future()
    done.set_result(work(*given))
    return done


def _encode(plan: Plan, encoder: Encoder | None, canary: Canary | None, given: Given) -> Encoded:
    if isinstance(given, Unit):
        return encode_apart(plan, given)
    encoded = flow.encode(plan, encoder, given)
    if canary is not None:
        canary.check()
    return encoded


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _preparers(plan: Plan, workers: int | str) -> tuple[Executor, Callable[[Unit], Given], int]:
    """A pool, the function to submit to it, and its size."""
    if workers == "auto":
        most = 4 if plan.settings.device == "cpu" else 8  # a small model eats faster on a GPU
        workers = 0 if cores() <= 2 else max(1, min(most, cores() - plan.settings.threads))
    if not workers:
        tokenizer = load.load_tokenizer(plan)
        pool = ThreadPoolExecutor(1, "prepare")
        return pool, lambda unit: attempts.prepare(plan, unit, tokenizer), 1
    context = get_context("spawn")
    pool = ProcessPoolExecutor(int(workers), context, _start_process, (plan,))
    return pool, _prepare_in_process, int(workers)


def _start_process(plan: Plan) -> None:
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _process["it"] = plan, load.load_tokenizer(plan)


def _end_with(parent: Any) -> None:
    """A worker has both ends of its queue, and would wait for ever for a parent that was killed."""
    parent.join()
    os._exit(1)


def _prepare_in_process(unit: Unit) -> Given:
    plan, tokenizer = _process["it"]
    return attempts.prepare(plan, unit, tokenizer)


def _fill(ahead: deque, waiting: deque, pool: Executor, prepare: Callable, count: int) -> None:
    while waiting and len(ahead) < count + 1:
        ahead.append(pool.submit(prepare, waiting.popleft()))


def _commit(plan: Plan, encoded: Encoded) -> Receipt:
    began = time.perf_counter()
    record = flow.commit(plan, encoded)
    attempts.end(plan, encoded.unit)
    return Receipt.of(record, encoded, time.perf_counter() - began)
