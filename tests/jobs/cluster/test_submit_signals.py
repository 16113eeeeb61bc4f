"""A signal at any moment of following a job: it is stopped, once, and nothing breaks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from embedmill.jobs.cluster.submit import _follow, stop
from embedmill.jobs.process.signals import Signals
from embedmill.schemas.errors import Interrupted, TryAgain


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


def test_a_job_is_followed_without_its_log_where_a_proxy_lets_no_socket_by(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is seen, and told from the log by another way; and the cluster is not hammered."""
    cluster, asked, slept = Cluster(), [], []

    async def refused(_: str) -> AsyncIterator[str]:
        asked.append("log")
        raise ConnectionResetError("no upgrade")
        yield ""

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            cluster.over = True

    def info(_: str) -> SimpleNamespace:
        return SimpleNamespace(status="SUCCEEDED" if cluster.over else "RUNNING")

    cluster.over = False
    cluster.tail_job_logs, cluster.get_job_info = refused, info
    cluster.get_job_logs = lambda _: 'encoding\n{"exit_code": 0}\n'
    monkeypatch.setattr("embedmill.jobs.cluster.submit.asyncio.sleep", sleep)
    with Signals() as signals:
        said, about = asyncio.run(_follow(cluster, "r", signals))

    assert (said, about.status) == ({"exit_code": 0}, "SUCCEEDED")
    assert (4, [1, 1, 1]) == (len(asked), slept)
    assert "encoding\n" == capsys.readouterr().err


def test_a_cluster_that_is_lost_while_a_run_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> None:
        raise ConnectionError("Connection refused")

    client = SimpleNamespace(stop_job=away)
    monkeypatch.setattr("embedmill.jobs.cluster.submit._connect", lambda _: client)
    with pytest.raises(TryAgain, match="NO_CLUSTER: http://there: .*Connection refused"):
        stop("r", "http://there")
