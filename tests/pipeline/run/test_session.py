"""What goes wrong while Ray starts is told as it is: no cluster, or a signal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray

from embedmill.pipeline.run.session import session
from embedmill.schemas.errors import EmbedmillError, Interrupted, TryAgain
from embedmill.schemas.spec import Run


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (Exception("a node timed out\nsecond line"), TryAgain, "reached (a node timed out)"),
        (Interrupted("INTERRUPTED", "", "stopped by a signal", "resume"), Interrupted, "signal"),
    ],
    ids=["a plain exception of Ray's", "a second Ctrl-C"],
)
def test_an_error_while_ray_starts(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[EmbedmillError], said: str
) -> None:
    def init(**_: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "init", init)
    plan = SimpleNamespace(settings=SimpleNamespace(threads=1, device="cpu"))
    with pytest.raises(kind) as caught, session(plan, Run(), []):
        pass
    assert said in str(caught.value) and "second line" not in str(caught.value)
