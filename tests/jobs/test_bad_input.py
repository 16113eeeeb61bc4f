"""A job that cannot be done says so in one line, with its exit code, before anything is encoded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.jobs.commandline import Bench

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    write_texts(tmp_path / "in" / "a.parquet", text=["apple", "bee"], doc=["1", "2"])
    return Bench(tmp_path, tiny_bert, capfd, monkeypatch)


@pytest.fixture
def model(tmp_path: Path, tiny_bert: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def test_the_bench_itself_runs(bench: Bench):
    code, out, err = bench.run()
    assert code == 0, err
    assert "2 in" in out
    assert len(bench.parts()) == 1


def test_a_missing_column(bench: Bench):
    bench.refuses(3, "a.parquet", "'txet'", "did you mean 'text'", input__text="txet")


def test_a_file_that_is_no_parquet(bench: Bench):
    (bench.folder / "in" / "b.parquet").write_text("id,text\n1,apple\n2,bee\n")
    bench.refuses(3, "NOT_PARQUET", "b.parquet", "id,t")


def test_a_truncated_file(bench: Bench):
    good = (bench.folder / "in" / "a.parquet").read_bytes()
    (bench.folder / "in" / "b.parquet").write_bytes(good[: len(good) // 2])
    bench.refuses(3, "b.parquet", "truncated")


def test_a_bad_file_with_a_line_break_in_its_name_is_still_one_line(bench: Bench):
    (bench.folder / "in" / "b\n\x1b[31m.parquet").write_bytes(b"")
    bench.refuses(3, "b\\n\\x1b[31m.parquet")


def test_no_matching_file(bench: Bench):
    bench.refuses(3, "NO_INPUT", "*.pq", input__path=str(bench.folder / "in" / "*.pq"))


def test_types_that_change_between_shards(bench: Bench, write_texts):
    write_texts(bench.folder / "in" / "b.parquet", text=["sea"], doc=[3])
    bench.refuses(3, "a.parquet", "b.parquet", "int64", "string", input__id="doc")


def test_an_integer_id_that_is_too_large(bench: Bench, write_texts):
    write_texts(bench.folder / "in" / "a.parquet", text=["x"], n=pa.array([2**64 - 1], "uint64"))
    bench.refuses(3, "ID_RANGE", "a.parquet", "'n'", input__id="n")


def test_a_damaged_page(bench: Bench):
    path = bench.folder / "in" / "a.parquet"
    table = pa.table({"text": ["apple", "a special word"]})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    path.write_bytes(path.read_bytes().replace(b"special", b"spatial", 1))
    bench.refuses(3, "UNREADABLE", "a.parquet")


def test_an_unknown_key_of_the_spec(bench: Bench):
    bench.refuses(2, "job.yaml:", "txet", "text", input__txet="x")


def test_a_variable_that_is_not_set(bench: Bench):
    os.environ.pop("EMBEDMILL_NOT_SET", None)
    bench.refuses(2, "job.yaml:", "EMBEDMILL_NOT_SET", input__path="${EMBEDMILL_NOT_SET}/x")


def test_max_tokens_above_the_positions(bench: Bench):
    bench.refuses(8, "model.max_tokens", "129", "128", model__max_tokens=129)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "pkg://no_such_package/model", "pkg://jobs/no/such/folder"]
)
def test_a_missing_model(bench: Bench, name):
    bench.refuses(8, "MODEL_MISSING", name, model__name=name)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_model_with_truncated_weights(bench: Bench, model, kept):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    bench.refuses(8, "model.safetensors", model__name=str(model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_without_one_of_its_files(bench: Bench, model, name):
    (model / name).unlink()
    bench.refuses(8, str(model), model__name=str(model))


def test_an_output_that_was_made_with_another_fingerprint(bench: Bench):
    assert bench.run()[0] == 0
    before = bench.parts()
    code, out, err = bench.run(model__max_tokens=16)
    assert (code, out, err.count("\n")) == (6, "", 1)
    assert "another max_tokens;" in err
    assert before == bench.parts()
    assert bench.run(model__max_tokens=16, output__replace=True)[0] == 0
    assert not set(before) & set(bench.parts())


def test_an_output_that_cannot_be_written(bench: Bench):
    (bench.folder / "file").write_text("a file")
    bench.refuses(7, "NOT_A_FOLDER", "file", output__path=str(bench.folder / "file" / "out"))


def test_an_input_under_the_output(bench: Bench):
    bench.refuses(3, "INPUT_INSIDE_OUTPUT", output__path=str(bench.folder))


@pytest.mark.parametrize(("policy", "text"), [("on_null", None), ("on_empty", " ")])
def test_a_row_that_a_policy_does_not_allow(bench: Bench, write_texts, policy, text):
    write_texts(bench.folder / "in" / "a.parquet", text=["apple", "bee", text])
    bench.refuses(3, "a.parquet, row 2", "text", **{f"input__{policy}": "fail"})


def test_an_error_as_json_is_one_object_on_stdout(bench: Bench):
    import json

    code, out, err = bench.run("--json", input__text="txet")
    facts = json.loads(out)
    assert (code, facts["exit_code"], facts["code"]) == (3, 3, "COLUMN_MISSING")
    assert err.count("\n") == 1


def test_plan_refuses_what_run_refuses_and_writes_nothing(bench: Bench):
    assert bench.run(command="plan", input__text="txet")[0] == 3
    code, _, err = bench.run(command="plan")
    assert code == 0, err
    assert not (bench.folder / "out").exists()


def test_a_bug_of_ours_has_a_code_of_its_own(bench: Bench, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("one by nothing")

    monkeypatch.setattr("embedmill.jobs.run.make_plan", broken)
    code, _, err = bench.run()
    assert code == 70
    assert err.splitlines()[-1].startswith("embedmill: BUG: ZeroDivisionError")


@pytest.mark.parametrize(
    ("field", "code"), [("input__text", 3), ("model__name", 8), ("input__nothing", 2)]
)
def test_the_command_itself_ends_with_one_line_and_the_code(
    bench: Bench, field: str, code: int, tmp_path: Path
):
    command = [sys.executable, "-m", "embedmill", "run", str(bench.spec(**{field: "/x/y/z"}))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (code, "") == (done.returncode, done.stdout)
    assert done.stderr.count("\n") == 1, done.stderr
    assert bench.parts() == []
