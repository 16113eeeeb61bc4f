"""A tokenizer whose own code gives up on a text costs that row, and no process and no neighbour."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.jobs.commandline import Bench

HARD = "a" * 60 + "!"  # (a|aa|b)+c tries more ways than the library allows
SPLIT = {
    "type": "Split",
    "pattern": {"Regex": "(a|aa|b)+c"},
    "behavior": "Isolated",
    "invert": False,
}


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    """A model whose tokenizer has such a pattern, and two such texts among others."""
    model = tmp_path / "model"
    shutil.copytree(tiny_bert, model)
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    steps = [tokenizer["pre_tokenizer"], SPLIT]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    path.write_text(json.dumps(tokenizer))
    texts = ["lemon", HARD, "river", "stone", HARD, "a boat"]
    write_texts(tmp_path / "in" / "0.parquet", id=list("abcdef"), text=texts)
    return Bench(tmp_path, model, capfd, monkeypatch)


def test_a_text_on_which_the_tokenizer_panics_is_a_reject(bench: Bench) -> None:
    code, out, _ = bench.run("--json", input__id="id", output__quality={"fault_rate": 1})
    assert code == 0
    facts = json.loads(out)
    assert {"CRASHED": 2} == facts["rejects"]
    (part,) = bench.parts()
    assert list("acdf") == pq.read_table(part).column("id").to_pylist()


def test_plan_and_explain_end_in_a_line(bench: Bench) -> None:
    code, _, _ = bench.run("--json", command="plan")
    assert code == 0
    code, _, err = bench.command("explain", str(bench.spec()), HARD)
    assert code in (2, 3, 8)
    assert "Traceback" not in err
