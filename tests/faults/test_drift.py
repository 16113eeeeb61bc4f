"""On Ray an encoder that drifts ends its process: Ray replaces it and its units are redone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from embedmill.pipeline.plan.plan import make_plan
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.spec import Spec

PROGRAM = """
import pickle, sys
import pyarrow as pa
from embedmill.pipeline import flow, load
import ray
from embedmill.pipeline.canary import make_canary
from embedmill.pipeline.run import on_ray as cluster
from embedmill.pipeline.run.worker import Job, versions
from embedmill.pipeline.store.output import open_store

plan, unit = pickle.load(open(sys.argv[1], "rb"))
prepared = flow.prepare(plan, unit, load.load_tokenizer(plan))
make_canary(open_store(plan.output), plan)
actor = cluster._Encode(pickle.dumps(Job(plan, "stop", versions(ray.__version__))))
batch = pa.table([[pickle.dumps(prepared)]], schema=cluster.CELL)
print("encoded", actor(batch).num_rows, flush=True)
actor.encoder.encoder.ends.token[:, 3] *= 1 + 1e-6  # last bits, as a failing memory does
for _ in range(8):  # a few of the fixed texts after each unit
    actor(batch)
print("never here", flush=True)
"""


def test_a_drifting_actor_dies_before_it_hands_its_unit_on(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]
) -> None:
    shard = write_texts(tmp_path / "in" / "a.parquet", text=["lemon", "river"])
    spec = {
        "input": {"path": str(shard), "text": "text"},
        "model": {"name": str(tiny_bert), "precision": "exact"},
        "output": {"path": str(tmp_path / "out")},
    }
    planned = make_plan(Spec.model_validate(spec), open_store(str(tmp_path / "out")))
    job = tmp_path / "job"
    job.write_bytes(pickle.dumps((planned.plan, planned.units[0])))

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(job)], capture_output=True, text=True, check=False
    )

    assert 1 == done.returncode, done.stderr
    assert "encoded 1" in done.stdout
    assert "never here" not in done.stdout
    assert "DRIFT" in done.stderr
