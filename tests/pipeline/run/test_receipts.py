"""The running sums over receipts, and how a run on Ray waits for them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.pipeline.run import signals as manners
from embedmill.pipeline.run.receipt import Spans

ENDS = st.integers(0, 60)


@given(st.lists(st.tuples(ENDS, ENDS).map(sorted)))
def test_spans_are_the_union_of_what_was_added(given: list[list[int]]) -> None:
    spans = Spans()
    for start, end in given:
        spans.add(start, end)

    seconds = {n for start, end in given for n in range(start, end)}
    assert len(seconds) == spans.seconds
    assert seconds == {n for start, end in spans.spans for n in range(start, end)}
    assert spans.spans == sorted(spans.spans)
    assert all(a[1] < b[0] for a, b in zip(spans.spans, spans.spans[1:], strict=False))


def test_many_spans_take_no_time() -> None:
    """Each used to be sorted in among all: a million units would have taken days."""
    spans, began = Spans(), time.process_time()
    for n in range(200_000):
        spans.add(n, n + 0.5)

    assert 100_000 == spans.seconds
    assert time.process_time() - began < 10


@pytest.fixture
def hangs() -> Iterator[SimpleNamespace]:
    """A dataset whose encoders never come, after one receipt."""
    from embedmill.pipeline.run.ray_source import cells

    over = threading.Event()

    def iter_batches(**_: object) -> Iterator[pa.Table]:
        yield cells(["a receipt"])
        over.wait()

    yield SimpleNamespace(iter_batches=iter_batches)
    over.set()


def test_a_stop_without_an_encoder_is_not_waited_for(
    hangs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedmill.pipeline.run import on_ray as cluster

    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.01)
    answers = [False, False, True]

    assert ["a receipt"] == list(cluster.receipts(hangs, lambda: answers.pop(0)))
    assert [] == answers


def test_what_goes_wrong_there_is_raised_here() -> None:
    from embedmill.pipeline.run import on_ray as cluster

    broken = SimpleNamespace(iter_batches=_raise)
    with pytest.raises(ZeroDivisionError):
        list(cluster.receipts(broken, lambda: False))


def _raise(**_: object) -> Iterator[pa.Table]:
    raise ZeroDivisionError


def test_a_signal_that_ray_took_is_told_to_the_run() -> None:
    """Ray raises SystemExit for it; the run's own handler hears of it all the same."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("ours"))

    def rays(*_: object) -> None:
        raise SystemExit(signal.SIGTERM)

    try:
        with pytest.raises(SystemExit), manners.handlers_kept():
            signal.signal(signal.SIGTERM, rays)
            signal.raise_signal(signal.SIGTERM)
        assert ["ours"] == heard
        signal.raise_signal(signal.SIGTERM)
        assert ["ours", "ours"] == heard
    finally:
        signal.signal(signal.SIGTERM, before)
