"""Reading YAML: what is not a spec is said plainly, and nothing in a file can hurt."""

from __future__ import annotations

import os

import pytest

from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec_file.load import load_spec
from embedmill.schemas.spec_file.tree import MAX_NODES

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


# --- the file ---


def test_missing_file_folder_and_unreadable(tmp_path):
    for path, said in [
        (tmp_path / "no.yaml", "there is no such file"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be read"),
    ]:
        with pytest.raises(SpecError, match=said):
            load_spec(str(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(SpecError, match="cannot be read: Permission denied"):
        load_spec(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "job.yaml: is empty"),
        ("# only words\n---\n", "job.yaml: is empty"),
        ("- a\n", "job.yaml:1: is not a mapping"),
        ("just words\n", "job.yaml:1: is not a mapping"),
        ("a: b: c\n", "job.yaml:1: not YAML: a ': ' inside a value"),
        ("input:\n\tpath: x\n", "job.yaml:2: not YAML: a tab; YAML indents with spaces"),
        ("a: [1, 2\n", "job.yaml:2: not YAML: a [ or { is not closed"),
        ("a: 'x\n", "not YAML: a quote is not closed"),
        ("a:\n  path: *.parquet\n", "job.yaml:2: not YAML: a value cannot begin with *; quote it"),
        ("a:\n  text: {x} {y}\n", "job.yaml:2: not YAML: a value that begins with { or [ has to"),
        ("a: [x], {y}\n", "job.yaml:1: not YAML: a value that begins with { or [ has to be quoted"),
        ("a:\n  b: 1\n   c: 2\n", "job.yaml:3: not YAML: a ': ' inside a value, or a wrong indent"),
        ("a: 1\n---\nb: 2\n", "job.yaml:2: a second document"),
        ("? [a]\n: b\n", "job.yaml:1: a key must be a word"),
        ("a: b\x07\n", "job.yaml:1: the character U+0007 is not allowed"),
        (b"a: \xff\xfe\n", "job.yaml:1: is not UTF-8"),
        ("x".encode("utf-16"), "job.yaml:1: is not UTF-8"),
        (b"a" * (1 << 20) + b"a", "is larger than 1 MiB"),
    ],
)
def test_what_is_not_a_spec_is_said_plainly(problems, text, said):
    (problem,) = problems(text)
    assert said in problem


def test_byte_order_mark_crlf_and_no_last_newline_are_fine(load):
    plain = load(GOOD)
    assert load(b"\xef\xbb\xbf" + GOOD.encode()) == plain
    assert load(GOOD.replace("\n", "\r\n")) == plain
    assert load(GOOD.rstrip("\n")) == plain
    assert load("---\n" + GOOD + "...\n") == plain


def test_lines_are_right_with_crlf(problems):
    (problem,) = problems(but("text: body", "text: 7").replace("\n", "\r\n"))
    assert problem.startswith("job.yaml:3: ")


def test_a_field_named_twice_tells_both_lines(problems):
    (problem,) = problems(but("text: body", "text: body\n  text: other"))
    assert problem == "job.yaml:4: input.text: named twice; first on line 3"


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{a: " * 60 + "}" * 60])
def test_deep_nesting_is_refused_without_recursion(problems, text):
    (problem,) = problems(text)
    assert "nested more than 50 deep" in problem


def test_alias_bomb_is_refused(problems):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    (problem,) = problems("\n".join(lines))
    assert f"more than {MAX_NODES:,} values" in problem


def test_deep_aliases_are_refused_without_recursion(problems):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 99))]
    (problem,) = problems("\n".join(lines))
    assert "nested more than 50 deep" in problem


def test_aliases_work_and_unknown_ones_do_not(load, problems):
    text = but("path: out", "path: &here out") + "run: {address: *here}\n"
    assert load(text).run.address == "out"
    (problem,) = problems(but("path: out", "path: *nowhere"))
    assert problem == "job.yaml:7: output.path: *nowhere names no anchor above it"


def test_an_anchor_inside_itself_is_refused(problems):
    (problem,) = problems("a: &a [*a]\n")
    assert "names no anchor" in problem


def test_tags_are_refused_and_never_run(problems, tmp_path):
    trap = tmp_path / "trap"
    said = problems(but("body", f"!!python/object/apply:os.mkdir ['{trap}']"))
    assert any("input.text: the tag" in line and "not allowed" in line for line in said)
    assert not trap.exists()


# --- YAML 1.1 traps ---


@pytest.mark.parametrize(
    "word",
    ["no", "on", "yes", "off", "y", "N", "12:30:45", "2024-01-02", "<<", "=", "0b1", "1_000"],
)
def test_words_that_yaml_1_1_would_change_are_text(load, word):
    assert load(but("body", word)).input.text == word


@pytest.mark.parametrize("word", ["1e3", "1.10", "7", "0x1F", "true", ".inf", "0o17", "-1"])
def test_numbers_in_a_text_field_are_told_to_be_quoted(problems, word):
    (problem,) = problems(but("body", word))
    assert problem == f'job.yaml:3: input.text: wants text, got {word}; quote it: "{word}"'


@pytest.mark.parametrize("word", ["1e3", "1.10", "no", "null", "true", ""])
def test_quotes_make_text(load, word):
    if word:
        assert load(but("body", f"'{word}'")).input.text == word


def test_a_switch_written_as_a_word_is_told_how(problems):
    (problem,) = problems(but("path: out", "path: out\n  replace: no"))
    assert problem.endswith("output.replace: wants true or false, got no; write false")


def test_nothing_is_null_where_null_is_allowed(load, problems):
    assert load(but("body", "body\n  id:\n  prompt: ~")).input.id is None
    (problem,) = problems(but("body", ""))
    assert problem == "job.yaml:3: input.text: wants text, got nothing"


def test_numbers_in_number_fields(load, problems):
    spec = load(GOOD + "run: {workers: 4, unit_rows: 0x10}\n", "output.quality.fault_rate=1e-3")
    assert (spec.run.workers, spec.run.unit_rows) == (4, 16)
    assert spec.output.quality.fault_rate == 0.001
    (problem,) = problems(GOOD + "run: {workers: 1e3}\n")
    assert problem.endswith("wants auto or a whole number from 1 up, got 1e3")
    (problem,) = problems(GOOD + "run: {workers: '4'}\n")
    assert problem.endswith("got '4'")
    (problem,) = problems(GOOD, "output.quality.fault_rate=.nan")
    assert "wants a number from 0 to 1" in problem
    problems(GOOD + f"run: {{workers: {'9' * 5000}}}\n")


def test_an_empty_section_has_its_defaults(load, problems):
    assert load(GOOD + "run:\n  # workers: 4\n").run.workers == "auto"
    assert problems(GOOD.replace("  name: some/model\n", "")) == [
        "job.yaml:4: model.name: missing; wants text"
    ]
