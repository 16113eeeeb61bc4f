"""Long texts through `run`: cut, rejected, as windows, or as the mean of their windows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.dataset import dataset
from embedmill.jobs.estimate.plan import plan
from embedmill.jobs.explain import explain, explain_text
from embedmill.jobs.run import run
from embedmill.jobs.search.exact import search
from embedmill.jobs.verify.output import verify
from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode.load import load_encoder
from embedmill.pipeline.store.output import open_store
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.errors import SpecError
from embedmill.schemas.report import RunReport
from embedmill.schemas.spec import Spec
from tests.jobs.damage import change_part

WORDS = "apple bee river stone honey yellow sour fruit deep water north wind queen".split()
LONG = [" ".join(WORDS[(n + i) % 13] for i in range(n)) for n in (3, 30, 15, 75, 40)]
TEXTS = [*LONG, None, "  \thoney " + "bee\u00a0" * 40, LONG[1], "ünïcode 你好 " * 12, ""]


class Job:
    """One input of long texts, whose rows are TEXTS, and runs of it."""

    def __init__(self, folder: Path, model: Path, write: Callable[..., Path]) -> None:
        self.folder, self.model = folder, model
        ids = [f"row-{n}" for n in range(len(TEXTS))]
        self.source = write(folder / "in.parquet", 4, text=TEXTS, id=ids, other=["x"] * len(ids))

    def spec(self, name: str = "out", **more: Any) -> Spec:
        sections: dict[str, dict[str, Any]] = {
            "input": {"path": str(self.source), "text": "text", "id": "id"},
            "model": {"name": str(self.model), "max_tokens": 16},
            "output": {"path": str(self.folder / name)},
            "run": {"device": "cpu", "runner": "inline", "unit_rows": 4},
        }
        for section, values in more.items():
            sections[section] |= values
        return Spec.model_validate(sections)

    def run(self, name: str = "out", **more: Any) -> tuple[RunReport, list[dict[str, Any]]]:
        spec = self.spec(name, **more)
        report = run(spec)
        result = verify(spec.output.path, sample=100)
        assert result["problems"] == []
        return report, dataset(spec.output.path).to_table().to_pylist()


@pytest.fixture
def job(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Job:
    return Job(tmp_path, tiny_bert, write_texts)


def by_id(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    return found


@pytest.mark.parametrize("stride", [0, 5])
def test_windows_are_rows_that_reassemble_their_text(job: Job, stride: int) -> None:
    report, rows = job.run(model={"long_text": "window", "stride": stride})

    found = by_id(rows)
    assert [f"row-{n}" for n in (0, 1, 2, 3, 4, 6, 7, 8)] == list(found)
    for name, windows in found.items():
        text = TEXTS[int(name[4:])]
        assert list(range(len(windows))) == [w["window"] for w in windows]
        assert (0, len(text)) == (windows[0]["char_start"], windows[-1]["char_end"])
        assert all(w["n_tokens"] <= 16 and w["n_chars_cut"] == 0 for w in windows)
        if stride == 0:
            assert text == "".join(text[w["char_start"] : w["char_end"]] for w in windows)
        ends = [0, *(w["char_end"] for w in windows)]
        assert all(w["char_start"] <= end for w, end in zip(windows, ends, strict=False))
    assert len(found["row-0"]) == 1 and len(found["row-3"]) > 4
    assert (report.rows_in, report.rows_rejected, report.vectors) == (10, 2, len(rows))
    assert report.rows_encoded + report.rows_deduplicated == 8


def test_window_vectors_are_those_of_their_ids_encoded_alone(job: Job) -> None:
    _, rows = job.run(
        model={"long_text": "window", "stride": 3}, input={"prompt": "sun: "},
        output={"columns": [{"name": "vector", "pooling": "mean", "normalize": True}]},
    )  # fmt: skip
    tokenizer = Tokenizer(
        job.model, max_tokens=16, truncation="longest_first", parse_specials=False
    )
    encoder = load_encoder(job.model, device="cpu", precision="exact", threads=1)
    for name, windows in by_id(rows).items():
        made = tokenizer.windows("sun: ", [TEXTS[int(name[4:])]], 3)
        assert len(windows) == len(made.lengths_S)
        for n, window in enumerate(windows):
            one = made.take(np.array([n]))
            hidden = encoder.encode(Pack(one.ids_T, one.cu_S1, one.second_S)).hidden_TD
            mean = hidden.mean(0).numpy()
            np.testing.assert_allclose(window["vector"], mean / np.linalg.norm(mean), atol=1e-5)
            assert window["n_tokens"] == len(one.ids_T)


def test_window_mean_is_the_weighted_mean_of_pooled_windows(job: Job) -> None:
    columns = [
        {"name": "raw", "normalize": False},
        {"name": "small", "normalize": True, "dim": 8, "dtype": "float16"},
    ]
    window = {"long_text": "window", "stride": 2}
    _, windows = job.run("windows", model=window, output={"columns": columns[:1]})
    mean = {"long_text": "window_mean", "stride": 2}
    report, rows = job.run("means", model=mean, output={"columns": columns})

    assert report.vectors == len(rows) == 8
    for row, (name, some) in zip(rows, by_id(windows).items(), strict=True):
        assert name == row["id"] and "window" not in row
        vectors = np.array([w["raw"] for w in some], np.float64)
        weights = np.array([w["n_tokens"] - 2 for w in some])  # without [CLS] and [SEP]
        wanted = (vectors * weights[:, None]).sum(0) / weights.sum()
        np.testing.assert_allclose(row["raw"], wanted, atol=1e-6)
        small = wanted[:8] / np.linalg.norm(wanted[:8])
        np.testing.assert_allclose(np.array(row["small"], np.float32), small, atol=1e-3)
        assert sum(w["n_tokens"] for w in some) == row["n_tokens"]
        if len(some) == 1:
            assert some[0]["raw"] == row["raw"]


@pytest.mark.parametrize("long_text", ["window", "window_mean"])
def test_bytes_do_not_depend_on_workers_or_packs_of_others(job: Job, long_text: str) -> None:
    parts = []
    for name, settings in (("thread", {}), ("processes", {"workers": 2})):
        job.run(name, model={"long_text": long_text}, run=settings)
        files = sorted((job.folder / name).glob("data/*/*.parquet"))
        parts.append({path.name: path.read_bytes() for path in files})
    assert len(parts[0]) > 1
    assert parts[0] == parts[1]


def test_truncated_and_rejected(job: Job) -> None:
    _, cut = job.run("cut")
    report, kept = job.run("kept", model={"long_text": "reject"})
    lost = {row["id"]: row["n_chars_cut"] for row in cut}
    assert len(TEXTS[3]) - len(" ".join(TEXTS[3].split()[:14])) == lost["row-3"]
    assert {name for name, n in lost.items() if n == 0} == {row["id"] for row in kept}
    assert report.rejects["TEXT_TOO_LONG"] == sum(n > 0 for n in lost.values())


def test_plan_search_and_verify_know_windows(job: Job) -> None:
    spec = job.spec(model={"long_text": "window"})
    facts = plan(spec)
    report, rows = job.run(model={"long_text": "window"})
    assert facts["tokens_estimated"] == report.tokens
    assert (facts["duplicates_estimated"], facts["rejects_estimated"]) == (0, 2)
    wanted = next(row for row in rows if row["id"] == "row-3" and row["window"] == 2)
    query = TEXTS[3][wanted["char_start"] : wanted["char_end"]].strip()
    best = search(spec.output.path, query, k=1)["hits"][0]
    assert (best["id"], best["window"]) == ("row-3", 2)
    assert run(spec).units == 0, "the next run has nothing to do"


@pytest.mark.parametrize(("column", "value"), [("window", 3), ("char_start", 2), ("char_end", 1)])
def test_verify_finds_windows_that_do_not_tile(job: Job, column: str, value: int) -> None:
    def change(whole: pa.Table) -> pa.Table:
        at = whole.schema.get_field_index(column)
        values = whole.column(at).to_pylist()
        values[2] = value
        field = whole.schema.field(at)
        return whole.set_column(at, field, pa.array(values, field.type))

    spec = job.spec(model={"long_text": "window"}, run={"unit_rows": 100})
    run(spec)
    change_part(open_store(spec.output.path), 0, change)
    result = verify(spec.output.path)
    assert any("windows do not continue" in problem for problem in result["problems"])


# --- what is wrong with a spec ---


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": {"stride": 3}}, "model.stride: truncate has no windows"),
        ({"model": {"stride": 3, "long_text": "reject"}}, "model.stride: reject has no windows"),
        ({"model": {"long_text": "window", "stride": 14}}, "model.stride: 14 leaves no new token"),
        ({"model": {"long_text": "window"}, "input": {"pair": "other"}}, "for single texts"),
        (
            {"model": {"long_text": "window"}, "output": {"columns": [{"name": "window"}]}},
            "'window' is a column of parts with windows",
        ),
        ({"model": {"max_tokens": 7}}, "greater than or equal to 8"),
    ],
)
def test_a_spec_that_cannot_be(job: Job, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        job.spec(**more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"input": {"prompt": "apple " * 14}}, "input.prompt: the prompt is 14 tokens"),
        (
            {"input": {"prompt": "apple " * 13, "pair": "other"}},
            "input.prompt: the prompt is 13 tokens long, and max_tokens 16 leaves room for 13",
        ),
        (
            {"input": {"prompt": "apple bee"}, "model": {"long_text": "window", "stride": 12}},
            "model.stride: 12 leaves no new token for a window, which holds 12 of its text",
        ),
    ],
)
def test_no_room_beside_the_prompt(job: Job, more: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        run(job.spec(**more))
    assert not list((job.folder / "out").glob("_embed/plan/*"))
    with pytest.raises(SpecError, match=said):
        explain(job.spec(**more), "rain", "sun" if "pair" in more["input"] else None)


# --- prompts, special tokens ---


def test_prompts_by_name_literal_and_default(job: Job) -> None:
    prompts = {"prompts": {"doc": "sun: ", "query": "moon: "}, "default_prompt_name": "doc"}
    model = Path(shutil.copytree(job.model, job.folder / "model"))
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    named = {
        name: job.run(name, model={"name": str(model)}, input={"prompt": prompt})[1]
        for name, prompt in (("default", None), ("doc", "doc"), ("query", "query"), ("none", ""))
    }
    literal = job.run("literal", input={"prompt": "sun: "})[1]
    plain = job.run("plain")[1]
    vectors = {
        name: [row["vector"] for row in rows]
        for name, rows in {**named, "literal": literal, "plain": plain}.items()
    }
    assert vectors["default"] == vectors["doc"] == vectors["literal"]
    assert vectors["none"] == vectors["plain"]
    assert vectors["query"] != vectors["doc"] != vectors["plain"]
    assert literal[0]["n_tokens"] > plain[0]["n_tokens"]


def test_text_that_spells_a_special_token_is_text(job: Job) -> None:
    pq.write_table(pa.table({"text": ["fire [SEP] ice"], "id": ["a"]}), job.source)
    as_text = job.run("text")[1][0]
    parsed = job.run("parsed", model={"special_tokens_in_text": "parse"})[1][0]
    # [CLS] fire [SEP] ice [SEP] when parsed; as text, "[", "]" and the word are tokens of their own
    assert parsed["n_tokens"] < as_text["n_tokens"]
    assert parsed["vector"] != as_text["vector"]


def test_explain_shows_the_windows(job: Job) -> None:
    found = explain(job.spec(model={"long_text": "window", "stride": 2}), LONG[3])
    assert len(found["windows"]) == 7 and found["n_tokens"] == 16
    assert found["windows"][0][0] == 0 and found["windows"][-1][1] == len(LONG[3])
    assert "7 windows, the first is shown; characters 0-" in explain_text(found)
    assert explain(job.spec(), LONG[3])["windows"] is None
