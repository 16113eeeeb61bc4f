"""`report --html`: the file that it writes, and what it says where it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embedmill.jobs.page.write import write_html
from embedmill.schemas.errors import ConflictError
from tests.jobs.commandline import Bench


def test_the_command_writes_the_page_and_still_prints_the_report(bench: Bench) -> None:
    bench.run()
    file = bench.folder / "night.html"

    code, out, err = bench.command("report", str(bench.folder / "out"), "--html", str(file))

    assert code == 0
    assert "rows" in out
    assert f"wrote {file}" in err
    assert "All went well" in file.read_text(encoding="utf-8")
    assert [path.name for path in bench.folder.glob(".night*")] == []


def test_without_the_extra_the_command_says_what_to_install(bench: Bench) -> None:
    bench.run()
    for module in [name for name in sys.modules if name.startswith("embedmill.jobs.page")]:
        bench.patch.delitem(sys.modules, module)
    bench.patch.setitem(sys.modules, "matplotlib", None)

    code, out, err = bench.command("report", str(bench.folder / "out"), "--html", "night.html")

    assert (2, "") == (code, out)
    assert "pip install 'embedmill[report]'" in err
    assert "matplotlib" in err


@pytest.mark.parametrize("name", ["nowhere/night.html", "in"])
def test_a_place_where_no_page_can_be_is_named_as_it_was_given(bench: Bench, name: str) -> None:
    bench.run()
    file = bench.folder / name
    code, _, err = bench.command("report", str(bench.folder / "out"), "--html", str(file))
    assert (code, err.count("\n")) == (7, 1)
    assert str(file) in err and "night.html." not in err
    assert not [path for path in bench.folder.iterdir() if path.name.startswith(".")]


def test_a_first_night_that_failed_has_a_page(bench: Bench) -> None:
    bench.run(input__text="nosuch")
    file = bench.folder / "night.html"

    code, _, err = bench.command("report", str(bench.folder / "out"), "--html", str(file))

    assert code == 6
    assert "NO_REPORT" in err
    html = file.read_text(encoding="utf-8")
    assert "The last run failed" in html
    assert "Exit 3. COLUMN_MISSING" in html


@pytest.fixture
def bench(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> Bench:  # fmt: skip
    write_texts(tmp_path / "in" / "a.parquet", text=["a lemon", "a boat", "the sun"])
    return Bench(tmp_path, tiny_bert, capsys, monkeypatch)


def test_a_night_that_encoded_nothing_has_a_page(
    bench: Bench, write_texts: Callable[..., Path]
) -> None:
    """The corpus under new names: all vectors are reused, and nothing was measured."""
    texts = [f"a lemon {n}" for n in range(12)]
    write_texts(bench.folder / "in" / "a.parquet", text=texts)
    assert bench.run(run__unit_rows=3)[0] == 0
    write_texts(bench.folder / "new" / "b.parquet", text=texts)
    code, out, err = bench.run("--json", input__path=str(bench.folder / "new"), run__unit_rows=3)
    report = json.loads(out)
    assert (code, report["tokens"], report["rows_reused"], report["parts"]) == (0, 0, 12, 4)
    assert "12 of 12 rows, 0 tokens/s" in err
    file = bench.folder / "night.html"

    code, _, err = bench.command("report", str(bench.folder / "out"), "--html", str(file))

    assert code == 0, err
    assert "All went well" in file.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_leaves_the_last_one(tmp_path: Path) -> None:
    file = tmp_path / "night.html"
    file.write_text("the last one")

    with pytest.raises(ConflictError):
        write_html(str(tmp_path / "none"), str(file))

    assert file.read_text() == "the last one"
    assert [path.name for path in tmp_path.iterdir()] == ["night.html"]
