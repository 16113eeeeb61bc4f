"""What people read when a field is wrong."""

from __future__ import annotations

import pytest

GOOD = """\
input:
  path: texts/*.parquet
  text: body
model:
  name: some/model
output:
  path: out
"""


def but(old: str, new: str) -> str:
    """The good spec with one thing changed."""
    assert old in GOOD
    return GOOD.replace(old, new)


def test_five_lines_are_a_job(load):
    spec = load(GOOD)
    assert (spec.input.path, spec.input.text) == ("texts/*.parquet", "body")
    assert spec.run.runner == "auto"
    assert spec.output.columns[0].name == "vector"


def test_every_problem_is_told_at_once_in_order(problems):
    text = GOOD.replace("text: body", "text: 7").replace("name: some/model", "nam: x")
    assert problems(text) == [
        'job.yaml:3: input.text: wants text, got 7; quote it: "7"',
        "job.yaml:4: model.name: missing; wants text",
        "job.yaml:5: model.nam: unknown field; did you mean name?",
    ]


def test_no_line_of_pydantic_reaches_people(problems):
    wrong = """\
input: {path: [], text: "", keep: x, on_null: 3, pair: {a: b}}
model: {name: [a], max_tokens: 1.5, truncation: first}
output: {path: null, columns: [{dim: 0, dtype: x}, 7], replace: maybe, quality: {fault_rate: 2}}
run: {workers: 0, encoders: {min: 0}, pack_tokens: -1, tokens_per_s: 0, prices: {gpu: 2}}
index: [{sink: lance}, {sink: lanse}]
"""
    said = "\n".join(problems(wrong))
    for jargon in (
        "Input should",
        "Extra inputs",
        "Value error",
        "literal",
        "valid",
        "constrained",
        "typing",
    ):
        assert jargon not in said
    assert "job.yaml:3: output.columns.0.dim: wants full or a whole number from 1 up, got 0" in said
    assert "job.yaml:3: output.replace: wants true or false, got maybe" in said
    assert "job.yaml:3: output.quality.fault_rate: wants a number from 0 to 1, got 2" in said
    assert "job.yaml:3: output.columns.1: wants a mapping of name, source" in said
    assert "job.yaml:1: input.path: wants text or a list of one or more (text), got an " in said
    assert "job.yaml:1: input.pair: wants text or null, got a mapping; quote it if it is" in said
    assert "job.yaml:4: run.tokens_per_s: wants a number above 0 or null, got 0" in said
    assert "job.yaml:4: run.prices: wants a mapping of h200, amx_core, zen4_core to" in said
    assert "job.yaml:4: run.encoders.max: missing; wants a whole number from 1 up" in said
    assert "job.yaml:5: index.0: lance wants a path" in said
    assert "job.yaml:5: index.1.sink: wants lance, pgvector, qdrant or faiss, got lanse" in said


# --- unknown fields ---


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("outptu: {}", "outptu: unknown field; did you mean output?"),
        ("workers: 4", "workers: unknown field here; it belongs under run"),
        ("qqq: 4", "qqq: unknown field; known are input, model, output, run, index"),
        ("run: {runer: ray}", "run.runer: unknown field; did you mean runner?"),
        ("run: {encoders: {max: 1, per_gpus: 1}}", "unknown field; did you mean per_gpu?"),
    ],
)
def test_unknown_field_has_a_suggestion(problems, line, said):
    (problem,) = problems(GOOD + line + "\n")
    assert problem.startswith("job.yaml:8: ")
    assert said in problem


def test_a_choice_has_a_suggestion(problems):
    (problem,) = problems(GOOD + "run: {runner: raay}\n")
    assert problem.endswith("run.runner: wants auto, ray or inline, got raay; did you mean ray?")


def test_validators_of_the_spec_are_told_at_the_line_of_their_field(problems):
    (problem,) = problems(but("text: body", "text: body\n  id: vector"))
    assert problem.startswith("job.yaml:7: output.columns: 'vector' is also a column of the parts")
    (problem,) = problems(but("path: out", "path: out\n  columns: [{name: a}, {name: a}]"))
    assert problem.startswith("job.yaml:8: output.columns: two columns are named 'a'")
    (problem,) = problems(GOOD + "run: {encoders: {min: 3, max: 2}}\n")
    assert problem == "job.yaml:8: run.encoders: min 3 is above max 2"
