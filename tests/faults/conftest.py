"""What tests of faults share: the job that is disturbed, and rows that kill who handles them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.scene import Scene, make_scene
from tests.pipeline.store.servers import SERVERS

ROOT = Path(__file__).resolve().parents[2]
DEADLY = Path(__file__).parent / "deadly"


@pytest.fixture(scope="module")
def scene(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_bert: Path,
    write_texts: Callable[..., Path],
) -> Iterator[Scene]:
    """The job into a folder, or, with a parameter, into a bucket of the real server it names."""
    folder = tmp_path_factory.mktemp("scene")
    server = getattr(request, "param", "local")
    with ExitStack() as stack:
        output, said = str(folder / "out"), {}
        if server != "local":
            place = stack.enter_context(SERVERS[server](tmp_path_factory.mktemp("server")))
            output, said = f"{place.uri}/out", place.environment
            own = stack.enter_context(pytest.MonkeyPatch.context())
            for name, value in said.items():
                own.setenv(name, value)
        yield make_scene(folder, str(tiny_bert), write_texts, output, **said)


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes rows deadly for the processes that are started from now on; not for this one."""

    def make(*pairs: str) -> None:
        monkeypatch.setenv("EMBEDMILL_TEST_DEADLY", ",".join(pairs))
        monkeypatch.setenv("PYTHONPATH", f"{DEADLY}:{ROOT}")
        monkeypatch.syspath_prepend(str(DEADLY))

    return make


def token(folder: Path, word: str) -> int:
    """The id of a word of a tiny model."""
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"][word]
