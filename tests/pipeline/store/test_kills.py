"""kill -9 of a run whose input and output are in a bucket."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embedmill.pipeline.store.output import open_store
from tests.faults.processes import start
from tests.pipeline.store.servers import Place
from tests.pipeline.store.test_end_to_end import command, spec_of, upload


def parts(root: str) -> dict[str, bytes]:
    """Name and bytes of every part of an output."""
    store = open_store(root)
    return {name: store.read(name) for name in store.list("data")}


@pytest.mark.slow
def test_after_any_kill_the_parts_are_those_of_an_undisturbed_run(
    bucket: Callable[[str], Place], tiny_bert: Path, tmp_path: Path
):
    root = bucket("s3").uri
    upload(root)
    spec = spec_of(root, tiny_bert, tmp_path)
    calm = ["--set", f"output.path={root}/calm"]
    command("run", spec, *calm)
    for number, (folder, wanted) in enumerate((("_embed/plan", 1), ("data", 1), ("data", 3))):
        for attempt in range(5):
            out = f"{root}/out-{number}-{attempt}"
            process = start(Path(spec), "--set", f"output.path={out}")
            while process.poll() is None and len(list(open_store(out).list(folder))) < wanted:
                time.sleep(0.01)
            process.kill()
            process.communicate()
            if process.returncode == -9:
                break
        assert process.returncode == -9, f"five runs were over before they had {wanted} in {folder}"
        report = command("run", spec, "--set", f"output.path={out}")
        assert report["rows_in"] == 61
        assert parts(out) == parts(f"{root}/calm")
        assert command("verify", out)["ok"]
