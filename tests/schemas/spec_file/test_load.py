"""The loader: every mistake has one plain line that says where it is and what to do."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec import Encoders, Spec
from embedmill.schemas.spec_file.load import dump_spec

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


# --- the environment ---


def test_variables(load, monkeypatch):
    monkeypatch.setenv("ROOT_FOLDER", "/data")
    monkeypatch.setenv("HOLLOW", "")
    monkeypatch.setenv("COUNT", "4")
    monkeypatch.delenv("ABSENT", raising=False)
    spec = load(
        but("texts/*.parquet", '["${ROOT_FOLDER}/a", \'${ABSENT:-x}/b\', "${HOLLOW:-y}"]')
        + "run: {address: null}\n",
        "run.workers=${COUNT}",
        "input.prompt='$${ABSENT} $5 ${ABSENT:-}'",
    )
    assert spec.input.path == ["/data/a", "x/b", "y"]
    assert spec.run.workers == 4
    assert spec.input.prompt == "${ABSENT} $5 "


def test_variables_are_not_expanded_twice(load, monkeypatch):
    monkeypatch.setenv("OUTER", "${INNER}")
    assert load(but("path: out", "path: ${OUTER}/x")).output.path == "${INNER}/x"


def test_unset_variable_is_told_with_its_line(problems, monkeypatch):
    monkeypatch.delenv("ABSENT", raising=False)
    (problem,) = problems(but("path: out", "path: ${ABSENT}/x"))
    assert problem == (
        "job.yaml:7: output.path: the variable ABSENT is not set; "
        "set it, or write ${ABSENT:-default}"
    )
    (problem,) = problems(but("path: out", "path: ${1x}"))
    assert problem.endswith("write $${ for a plain ${")


def test_a_number_from_the_environment_in_a_text_field_is_told_to_be_quoted(problems, monkeypatch):
    monkeypatch.setenv("COMMIT", "1234567")
    (problem,) = problems(but("name: some/model", "name: some/model\n  revision: ${COMMIT}"))
    assert problem.endswith('wants text or null, got ${COMMIT}; quote it: "${COMMIT}"')


# --- secrets ---


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (but("path: out", "path: s3://user:hunter2@bucket/x"), "output.path"),
        (but("path: out", "path: s3://:hunter2@bucket/x"), "output.path"),
        (but("body", "body\n  password: hunter2"), "input.password"),
        (but("body", "body\n  aws_access_key_id: hunter2"), "input.aws_access_key_id"),
        (but("body", "body\n  hf_token: hunter2"), "input.hf_token"),
        (but("path: out", "path: out\n  client_secret: hunter2"), "output.client_secret"),
        (GOOD + "storage: {apiKey: hunter2}\n", "storage.apiKey"),
        (but("body", "body\n  prompt: AKIA" + "HUNTER2ABCDEFGHI"), "input.prompt"),
        (but("body", "body\n  prompt: hf_" + "hunter2" * 6), "input.prompt"),
        (but("path: out", "path: az://box/x?sig=hunter2"), "output.path"),
    ],
)
def test_secrets_are_refused_and_not_repeated(problems, text, field):
    said = problems(text)
    assert any(f" {field}: " in line and "environment" in line for line in said)
    assert "hunter2" not in "\n".join(said).lower()


def test_a_secret_that_came_from_a_variable_is_refused_too(problems, monkeypatch):
    monkeypatch.setenv("LOGIN", "user:hunter2")
    (problem,) = problems(but("path: out", "path: s3://${LOGIN}@bucket/x"))
    assert "holds a secret" in problem
    assert "hunter2" not in problem
    (problem,) = problems(GOOD, "output.path=s3://u:hunter2@bucket/x")
    assert problem.startswith("--set output.path: this holds a secret")


def test_what_only_looks_like_a_secret_is_fine(load):
    spec = load(
        but("path: out", "path: abfs://box@account.dfs.core.windows.net/x"),
        "model.max_tokens=64",
        "model.special_tokens_in_text=parse",
        "run.pack_tokens=2048",
        "run.address=ray://head:10001",
        "input.prompt=my password: ",
        "input.keep=[token, secret_name]",
    )
    assert spec.output.path.startswith("abfs://box@")


# --- schemes ---


@pytest.mark.parametrize(
    "path", ["/a", "a/*.parquet", "file:///a", "s3://b/c", "gs://b", "az://b", "abfs://b", "S3://b",
             "hf://datasets/a/b"],
)  # fmt: skip
def test_schemes_that_are_allowed(load, path):
    assert load(GOOD, f"input.path={path}").input.path == path


@pytest.mark.parametrize(
    "path", ["http://x/y", "https://x", "ftp://x", "reference://d", "memory://x", "github://x"]
)
def test_schemes_that_are_not(problems, path):
    (problem,) = problems(but("texts/*.parquet", path))
    scheme = path.split(":")[0]
    assert problem.startswith(f"job.yaml:2: input.path: {scheme}:// is not supported; use ")
    (problem,) = problems(GOOD, f"input.path=[a, '{path}']")
    assert problem.startswith("--set input.path: input.path.1: ")


@pytest.mark.parametrize(
    "path", ["simplecache::s3://b/x", "zip://a.parquet::s3://b/x.zip", "s3://b::x"]
)
def test_chains_are_refused(problems, path):
    (problem,) = problems(but("texts/*.parquet", path))
    assert "'::' chains are not supported" in problem


def test_model_names(load, problems):
    assert load(GOOD, "model.name=pkg://some_package/model").model.name.startswith("pkg:")
    (problem,) = problems(GOOD, "model.name=https://host/model")
    assert "--set model.name: https:// is not supported" in problem


# --- --set ---


def test_set_changes_makes_and_indexes(load):
    spec = load(
        GOOD,
        'input.text="{title}: {body} # all"',
        "run.encoders={min: 2, max: 3}",
        "output.columns.0.name=first",
        "output.columns.1={name: second, source: input}",
        "output.quality.fault_rate=0.5",
        "input.prompt=query: ",
        "input.id='7'",
    )
    assert spec.input.text == "{title}: {body} # all"
    assert spec.run.encoders == Encoders(min=2, max=3)
    assert [column.name for column in spec.output.columns] == ["first", "second"]
    assert spec.output.quality.fault_rate == 0.5
    assert (spec.input.prompt, spec.input.id) == ("query: ", "7")


def test_the_last_set_wins_and_an_empty_one_is_null(load):
    spec = load(GOOD, "run.workers=3", "run.workers=4", "input.id=x", "input.id=")
    assert (spec.run.workers, spec.input.id) == (4, None)


def test_set_into_an_alias_changes_one_place(load):
    text = GOOD + "run: &run {workers: 3}\n"
    assert load(text, "run.workers=5").run.workers == 5


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("run.workers", "--set run.workers: write it as a.b=value"),
        ("=x", "write it as a.b=value"),
        ("run..workers=1", "write it as a.b=value"),
        ("run.wrokers=1", "--set run.wrokers: unknown field; did you mean workers?"),
        ("run.workers=four", "--set run.workers: wants auto or a whole number from 1 up, got four"),
        ("model.name.x=1", "--set model.name.x: model.name is one value and has no 'x' inside"),
        ("output.columns.2.name=x", "--set output.columns.2.name: output.columns has 0 items"),
        ("output.columns.x=1", "--set output.columns.x: output.columns: wants a list"),
        ("run.encoders=[1", "--set run.encoders: not YAML: a [ or { is not closed"),
        ("run.encoders={min: 1}", "--set run.encoders: run.encoders.max: missing"),
        ("input.keep=a", "--set input.keep: wants a list (text), got a"),
        ("input.text=7", '--set input.text: wants text, got 7; quote it: "7"'),
    ],
)
def test_problems_of_set_name_the_option(problems, item, said):
    text = GOOD + "\n"
    if item.startswith("output.columns.2"):
        text = but("path: out", "path: out\n  columns: []")
    lines = problems(text, item)
    assert any(said in line for line in lines), lines


# --- back to YAML ---

WORD = st.text(min_size=1, max_size=30).filter(
    lambda text: text.isprintable() and "::" not in text and "://" not in text
)
TRAPS = st.sampled_from(
    ["no", "1e3", "1.10", "12:30", "~", "null", "", "${A}", "$${A}", " x ", "0o7"]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=WORD | TRAPS.filter(bool),
    prompt=st.none() | st.text(max_size=20).filter(lambda t: "\0" not in t) | TRAPS,
    workers=st.just("auto") | st.integers(1, 9),
    rate=st.floats(0, 1),
)
def test_dump_reads_back_as_it_was(load, name, prompt, workers, rate):
    spec = Spec.model_validate(
        {
            "input": {"path": ["a", "b*"], "text": name, "prompt": prompt},
            "model": {"name": "m"},
            "output": {"path": "o", "quality": {"fault_rate": rate}},
            "run": {"workers": workers, "encoders": {"max": 3}},
        }
    )
    try:
        again = load(dump_spec(spec))
    except SpecError as error:
        assert "secret" in str(error) or "U+" in str(error)
    else:
        assert again == spec


@given(st.text(max_size=200))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_is_a_spec_or_a_spec_error(load, text):
    with pytest.raises(SpecError):
        load(text.encode("utf-8", "surrogatepass"))


def test_the_error_survives_pickling(load):
    with pytest.raises(SpecError) as caught:
        load(but("body", "7"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.args) == (SpecError, caught.value.args)


def test_a_slip_in_max_tokens_is_no_secret(problems):
    (problem,) = problems(but("  name: some/model", "  name: some/model\n  max_token: 5"))
    assert problem.endswith("did you mean max_tokens?")
