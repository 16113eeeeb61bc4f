"""Data sets of the Hugging Face hub are input like any other, through its own client."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from embedmill.jobs.dataset import dataset
from embedmill.jobs.run import run
from embedmill.pipeline.plan.shards import list_shards
from embedmill.pipeline.read.slices import read_slices
from embedmill.schemas.errors import InputError, SpecError, StorageError
from embedmill.schemas.plan import Slice, Unit
from embedmill.schemas.report import RunReport
from embedmill.schemas.spec import Input, Spec
from embedmill.schemas.spec_file.load import load_spec
from tests.pipeline.store.hub import TOKEN, serve

HOME = "hf://datasets/org/name"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A hub with one data set of three shards, and the environment that leads to it."""
    with serve(tmp_path / "files") as server:
        here = f"http://127.0.0.1:{server.server_port}"
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, here)
        monkeypatch.setattr(constants, "ENDPOINT", here)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for n, name in enumerate(("data/a.parquet", "data/more/b.parquet", "data/_c.parquet")):
            write(tmp_path / "files" / name, n)
        (tmp_path / "files" / "README.md").write_text("a data set")
        yield server


def write(path: Path, number: int, rows: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [f"lemon {number} river {n} " + "stone " * (n % 9) for n in range(rows)]
    pq.write_table(pa.table({"text": text}), path, write_page_checksum=True, row_group_size=1000)


def job(tmp_path: Path, tiny_bert: Path, path: str, out: str = "out") -> RunReport:
    spec = {
        "input": {"path": path, "text": "text"},
        "model": {"name": str(tiny_bert), "precision": "exact"},
        "output": {"path": str(tmp_path / out)},
        "run": {"runner": "inline", "unit_rows": 20, "device": "cpu"},
    }
    return run(Spec.model_validate(spec))


def rows(tmp_path: Path, out: str = "out") -> pa.Table:
    return dataset(str(tmp_path / out)).to_table().sort_by("id")


def test_a_run_over_the_hub_is_a_run_over_its_files(hub, tmp_path: Path, tiny_bert: Path) -> None:
    """To the last bit; and the next night pays only for what changed, whatever is committed."""
    report = job(tmp_path, tiny_bert, f"{HOME}/data")
    job(tmp_path, tiny_bert, str(tmp_path / "files" / "data"), "local")
    assert (60, 60) == (report.rows_in, report.rows_encoded)
    assert rows(tmp_path).equals(rows(tmp_path, "local"))

    write(tmp_path / "files" / "data" / "more" / "b.parquet", 7)
    report = job(tmp_path, tiny_bert, f"{HOME}/data")
    assert (60, 30) == (report.rows_in, report.rows_encoded)
    assert 0 == job(tmp_path, tiny_bert, f"{HOME}/data").rows_encoded
    said = "".join(
        path.read_text(errors="replace") for path in tmp_path.glob("out/_embed/**/*.json*")
    )
    assert HOME in said and TOKEN not in said


def names(path: str) -> list[str]:
    spec = Input(path=path, text="text", id="id")
    return sorted(one.shard.name for one in list_shards(spec, "/elsewhere").found)


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("", ["data/a.parquet", "data/more/b.parquet"]),
        ("/data/*.parquet", ["a.parquet"]),
        ("/data/**/*.parquet", ["a.parquet", "more/b.parquet"]),
        ("/data/more/b.parquet", ["b.parquet"]),
        ("@v1/data", ["a.parquet", "more/b.parquet"]),
    ],
)
def test_paths_mean_what_they_mean_elsewhere(hub, path: str, want: list[str]) -> None:
    assert want == names(f"{HOME}{path}")


def test_only_what_is_needed_is_asked_for(hub, tmp_path: Path) -> None:
    """The first bytes of a file and its end, with the footer."""
    write(tmp_path / "files" / "data" / "a.parquet", 0, rows=100_000)
    names(f"{HOME}/data/a.parquet")
    assert 2 == sum("/resolve/" in path for path in hub.asked)
    assert 1 << 17 > hub.sent < (tmp_path / "files" / "data" / "a.parquet").stat().st_size


def test_a_shard_that_is_committed_anew_is_another_version(hub, tmp_path: Path) -> None:
    spec = Input(path=f"{HOME}/data/a.parquet", text="text", id=None)
    (found,) = list_shards(spec, "/elsewhere").found
    path = tmp_path / "files" / "data" / "a.parquet"
    raw = bytearray(path.read_bytes())
    raw[20] ^= 1  # of the same size, and with the same footer
    path.write_bytes(raw)
    unit = Unit("k" * 32, (Slice(found.shard, 0, found.shard.rows),))
    with pytest.raises(InputError, match="INPUT_CHANGED"):
        read_slices(unit, ["text"], False)
    path.unlink()
    with pytest.raises(InputError, match="INPUT_GONE"):
        read_slices(unit, ["text"], False)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hf://datasets/org/other", "NO_INPUT"),
        (f"{HOME}/nothing", "NO_INPUT"),
        ("hf://org/model", "NO_INPUT.*hf://datasets/OWNER/NAME"),
        ("hf://datasets/org", "NO_INPUT.*hf://datasets/OWNER/NAME"),
    ],
)
def test_what_is_not_there(hub, path: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        names(path)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "ACCESS_DENIED"), (500, "STORE_AWAY"), (404, "STORE_AWAY")]
)
def test_a_hub_that_does_not_answer(
    hub, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    hub.broken = (status, {"error": TOKEN})
    with pytest.raises(StorageError, match=code) as caught:
        names(HOME)
    assert TOKEN not in str(caught.value)


def test_offline_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="STORE_AWAY.*HF_HUB_OFFLINE"):
        names(HOME)


def test_it_is_no_place_for_output(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"input: {{path: '{HOME}', text: text}}\nmodel: {{name: m}}\noutput: {{path: '{HOME}'}}\n"
    )
    with pytest.raises(SpecError, match=r"output.path: hf:// is not supported"):
        load_spec(str(path))
