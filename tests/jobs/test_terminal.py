"""What the data hold is shown on a terminal and never obeyed: on a real one, by every command."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from embedmill.schemas.terminal import visible
from tests.jobs.commandline import Bench

HOSTILE = [
    "x\n  1  9.9999  admin    a forged row",
    "\x1b]0;PWNED\x07\x1b[2J",
    "a\rb\x08c\x7f",
    "\x9b2J\x85",
    "\u202egnp.exe\u2066",
    "\x00nul",
]
RAW = {chr(n) for n in [*range(0x20), *range(0x7F, 0xA0)]} - {"\n", "\r", "\t"}


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    """An output whose ids and kept values are hostile."""
    texts = [f"apple {n}" for n in range(len(HOSTILE))]
    write_texts(tmp_path / "in" / "0.parquet", id=HOSTILE, text=texts, kept=HOSTILE[::-1])
    bench = Bench(tmp_path, tiny_bert, capfd, monkeypatch)
    code, _, err = bench.run(input__id="id", input__keep=["kept"])
    assert code == 0, err
    return bench


def on_a_terminal(*arguments: str) -> str:
    """What a terminal would be given."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "embedmill", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            some = os.read(ours, 1 << 16)
        except OSError:  # the last one has closed its end
            break
        if not some:
            break
        said += some
    os.close(ours)
    process.wait()
    return said.decode()


def test_search_shows_each_hit_in_one_line_and_obeys_nothing(bench: Bench) -> None:
    out = str(bench.folder / "out")
    for arguments in (["search", out, "apple"], ["search", out, "apple", "--json"]):
        said = on_a_terminal(*arguments)
        assert not RAW & {*said}, arguments
        assert "\u202e" not in said or "--json" in arguments
    assert len(on_a_terminal("search", out, "apple").strip().splitlines()) == len(HOSTILE)


def test_errors_report_and_status_obey_nothing(bench: Bench) -> None:
    out = str(bench.folder / "out")
    for arguments in (
        ["report", out],
        ["status", out],
        ["search", out + "\x1b[2J", "apple"],
        ["run", "no\x1b[2Jspec.yaml"],
    ):
        assert not RAW & {*on_a_terminal(*arguments)}, arguments


@pytest.mark.parametrize("letter", ["\x1b", "\x9b", "\u202e", "\ud800", "\u200b", "\x85"])
def test_what_cannot_be_seen_is_an_escape(letter: str) -> None:
    assert letter not in visible(f"a{letter}b")
    assert visible("l'été 日本語 🚀\u00a0x") == "l'été 日本語 🚀\u00a0x"
