"""What a process of a cluster asks of itself before its first unit, and how Ray's refusals read."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private.utils import check_version_info
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    RayTaskError,
    UserCodeException,
    WorkerCrashedError,
)

from embedmill.pipeline.run.failures import ours, unreachable
from embedmill.pipeline.run.worker import Job, job_of, versions
from embedmill.schemas.errors import ModelError, StorageError, TryAgain


def pickled(output: Path, **other: str) -> bytes:
    """A job of a driver with other software."""
    plan = SimpleNamespace(output=str(output), fingerprint="0" * 64)
    return pickle.dumps(Job(plan, "stop", {**versions(ray.__version__), **other}))


@pytest.mark.parametrize("name", ["python", "ray", "torch", "pyarrow", "tokenizers"])
def test_a_worker_with_other_software_says_what_differs(tmp_path: Path, name: str) -> None:
    here = versions(ray.__version__)[name]

    with pytest.raises(TryAgain) as caught:
        job_of(pickled(tmp_path, **{name: "0.0.1"}), ray.__version__)

    assert "SOFTWARE_DIFFERS" == caught.value.code
    assert f"{name} {here} for 0.0.1 of the driver" in str(caught.value)


def test_a_worker_that_sees_another_folder_refuses(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is another folder on node"):
        job_of(pickled(tmp_path), ray.__version__)


@pytest.mark.parametrize(
    "theirs", [{"ray_version": "2.58.0"}, {"python_version": "3.12.1"}], ids=["ray", "python"]
)
def test_a_cluster_of_another_version_is_named_with_ours(theirs: dict[str, str]) -> None:
    """Of what Ray itself says, which has many lines."""
    ours = {"ray_version": ray.__version__, "python_version": versions(ray.__version__)["python"]}
    with pytest.raises(RuntimeError) as caught:
        check_version_info({**ours, **theirs}, "here", python_version_match_level="patch")
    error = unreachable("ray://there", str(caught.value))

    assert ("RAY_VERSION", 75) == (error.code, error.exit_code)
    (version,) = theirs.values()
    assert version in error.what and f"this machine has Ray {ray.__version__}" in error.what
    assert "\n" not in str(error)


def test_an_encoder_that_cannot_start_ends_the_run_with_its_own_reason() -> None:
    """However deep Ray has wrapped it."""
    reason = ModelError("CANARY", "model", "this encoder is not the reference", "report it")
    wrapped = RuntimeError("The actor died because of an error raised in its creation task")
    wrapped.__cause__ = ValueError("UDF failed")
    wrapped.__cause__.cause = reason

    assert str(reason) == str(ours(wrapped))


def test_what_ray_makes_of_an_error_of_ours_is_taken_apart() -> None:
    """It is of both types, says a traceback, and has Ray's advice among its fields."""
    reason = ModelError("CANARY", "model", "is not the reference", "report it")
    reason.args = ("CANARY\nTo change retry attempts …", *reason.args[1:])
    dual = RayTaskError("task", "a\ntraceback", reason, "title", 1, "ip").as_instanceof_cause()
    assert isinstance(dual, ModelError) and "\n" in str(dual)

    found = ours(dual)
    assert (ModelError, "CANARY: model: is not the reference; report it") == (
        type(found),
        str(found),
    )
    assert ("CANARY", "model", "is not the reference", "report it") == found.args


def of_task(reason: BaseException) -> Exception:
    """What a driver gets of a task that raised `reason`."""
    return RayTaskError("task", "a\ntraceback", reason, "title", 1, "ip").as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkerCrashedError(), 75),
        (NodeDiedError("its node died"), 75),
        (ObjectLostError("0" * 56, None, ""), 75),
        (of_task(ObjectLostError("0" * 56, None, "")), 75),  # lost on the way into a task
        (ActorDiedError(), 8),
        (of_task(KeyError("a column")), 70),
        (UserCodeException("Failed to process a block"), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_ray_loses_is_no_bug_of_ours(error: Exception, code: int) -> None:
    found = ours(error)

    assert ("RAY", code) == (found.code, found.exit_code)
    assert str(found).startswith(f"RAY: {type(error).__name__}: ") and "\n" not in str(found)
