"""A signal at any moment of following a job: it is stopped, once, and nothing breaks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from jobs.signals import Signals
from jobs.submit import _follow
from schemas.errors import Interrupted


def interrupt() -> None:
    """This process gets a SIGINT, and has taken it on return."""
    os.kill(os.getpid(), signal.SIGINT)


class Cluster:
    """A job that ends when it is stopped; each moment may be interrupted. In place of a real one,
    whose moments cannot be met at will."""

    def __init__(self, at: str = "", stops: Callable[[], None] = lambda: None) -> None:
        self.at, self.stops, self.asked, self.ended = at, stops, 0, False

    def moment(self, name: str) -> None:
        if self.at == name:
            self.at = ""
            interrupt()

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        self.moment("before the log")
        yield "encoding\n"
        self.moment("between lines")
        while not self.ended:
            self.moment("while it waits")
            await asyncio.sleep(0.01)
        yield '{"exit_code": 130}\n'
        self.moment("after the log")

    def stop_job(self, _: str) -> None:
        self.asked += 1
        self.stops()
        self.ended = True

    def get_job_info(self, _: str) -> SimpleNamespace:
        self.moment("at the end")
        return SimpleNamespace(status="STOPPED" if self.ended else "SUCCEEDED")


FOLLOWED = ["before the log", "between lines", "while it waits", "after the log", "at the end"]


@pytest.mark.parametrize("moment", FOLLOWED)
def test_a_signal_while_the_job_is_followed(moment: str, capsys: pytest.CaptureFixture) -> None:
    cluster = Cluster(moment)
    cluster.ended = over = moment in ("after the log", "at the end")
    with Signals() as signals:
        said, info = asyncio.run(_follow(cluster, "r", signals))
    assert ({"exit_code": 130}, "STOPPED") == (said, info.status)
    assert [signal.SIGINT] == signals.came
    assert cluster.asked == (not over), "what has ended is not stopped"
    assert 1 == capsys.readouterr().err.count("encoding"), "no line twice"


def test_a_signal_while_the_loop_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    made, cluster = asyncio.new_event_loop, Cluster()

    def interrupted() -> asyncio.AbstractEventLoop:
        interrupt()
        return made()

    monkeypatch.setattr(asyncio.events, "new_event_loop", interrupted)
    with Signals() as signals:
        said, _ = asyncio.run(_follow(cluster, "r", signals))
    assert ({"exit_code": 130}, 1) == (said, cluster.asked)


def test_a_second_signal_leaves_a_cluster_that_does_not_answer() -> None:
    cluster = Cluster(stops=interrupt)
    with Signals() as signals, pytest.raises(Interrupted, match="left run r") as caught:
        signals.came.append(signal.SIGTERM)
        asyncio.run(_follow(cluster, "r", signals))
    assert (143, 1, False) == (caught.value.exit_code, cluster.asked, cluster.ended)


def test_handlers_are_as_they_were() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Signals():
        assert before != signal.getsignal(signal.SIGINT)
    assert before == signal.getsignal(signal.SIGINT)
