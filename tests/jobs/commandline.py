"""The command line in this process, with what it prints and its exit code."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from embedmill.jobs import cli


@dataclass(frozen=True)
class Bench:
    """A spec that would run, one good shard, and the command line in this process."""

    folder: Path
    model: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def spec(self, **fields: object) -> Path:
        """Writes the spec; fields are `input__text="body"`."""
        values: dict[str, dict] = {
            "input": {"path": str(self.folder / "in"), "text": "text"},
            "model": {"name": str(self.model)},
            "output": {"path": str(self.folder / "out")},
            "run": {"device": "cpu", "runner": "inline"},
        }
        for name, value in fields.items():
            section, _, key = name.partition("__")
            values[section][key] = value
        path = self.folder / "job.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def run(self, *arguments: str, command: str = "run", **fields: object) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a command on the spec."""
        return self.command(command, str(self.spec(**fields)), *arguments)

    def command(self, *line: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of a command."""
        self.patch.setattr(sys, "argv", ["embedmill", *line])
        self.capture.readouterr()
        before = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in before:
                signal.signal(number, handler)
        out, err = self.capture.readouterr()
        return code, out, err

    def refuses(self, expected: int, *words: str, **fields: object) -> None:
        """The command ends with the code and one line that has all the words; no part is made."""
        code, out, err = self.run(**fields)
        assert (expected, "") == (code, out)
        assert err.count("\n") == 1, err
        for word in words:
            assert word in err
        assert "Traceback" not in err
        assert self.parts() == []

    def parts(self) -> list[Path]:
        return sorted((self.folder / "out" / "data").rglob("*.parquet"))
