"""Buckets for the tests: each test has a folder of its own in a server of the session."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from embedmill.pipeline.store import client
from tests.pipeline.store.servers import SERVERS, Place

BUCKETS = ("s3", "gs", "az")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Place]]:
    """Starts a server the first time that it is asked for; all end with the session."""
    started: dict[str, Place | BaseException] = {}
    with ExitStack() as stack:

        def start(name: str) -> Place:
            if name not in started:
                try:
                    folder = tmp_path_factory.mktemp(name)
                    started[name] = stack.enter_context(SERVERS[name](folder))
                except BaseException as error:  # a skip, too: of every test that asks
                    started[name] = error
            found = started[name]
            if isinstance(found, BaseException):
                raise found
            return found

        yield start


@pytest.fixture
def bucket(
    servers: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], Place]:
    """bucket("s3"): the environment is that of the server; the URI is of a folder of this test."""
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)

    def choose(name: str) -> Place:
        place = servers(name)
        for key, value in place.environment.items():
            monkeypatch.setenv(key, value)
        folder = re.sub(r"\W+", "-", request.node.name)
        return replace(place, uri=f"{place.uri}/{folder}")

    return choose


@pytest.fixture(params=BUCKETS)
def place(request: pytest.FixtureRequest, bucket: Callable[[str], Place]) -> Place:
    """A folder in each kind of object storage."""
    return bucket(request.param)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries of a second in all, so that tests of failures end."""
    monkeypatch.setattr(client, "RETRY_SECONDS", 0.6)


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
