"""A server starts although somebody else takes the port that was free a moment ago."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.pipeline.store import servers


@pytest.mark.parametrize("name", ["s3", "lying", "gs"])
def test_a_server_whose_port_is_taken_starts_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    given, free = [], servers.free_ports
    with closing(socket.create_server(("127.0.0.1", 0))) as other:

        def ports(count: int) -> list[int]:
            first = [] if given else [other.getsockname()[1]]
            given.append([*first, *free(count - len(first))])
            return given[-1]

        monkeypatch.setattr(servers, "free_ports", ports)
        with servers.SERVERS[name](tmp_path):
            assert len(given) == 2
            assert other.getsockname()[1] not in given[1]


def test_a_server_that_never_starts_says_its_last_words(tmp_path: Path) -> None:
    def command(port: int) -> list[object]:
        return ["sh", "-c", f"echo no room on {port}; exit 1"]

    def answers(port: int) -> None:
        raise ConnectionRefusedError

    with (
        pytest.raises(RuntimeError, match="no room on"),
        servers.Server(command, answers, tmp_path / "log").running(),
    ):
        pass
