"""Poison and damage on both runners, with real deaths of workers, actors and drivers."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.conftest import token
from tests.faults.processes import finish, parts, start, write_spec

TEXTS = ["lemon", "yellow sour fruit", "river stone", "deep sea water"]


@pytest.mark.slow
@pytest.mark.ray
def test_both_runners_find_the_same_rows_across_restarts(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path], deadly: Callable[..., None]
) -> None:
    """One row kills who tokenizes it, one who encodes it, and one row group is damaged.

    Inline the driver dies, of the first unit as of the second, and the same command is given until
    it ends. Ray replaces its workers and actors and ends at once. The parts are the same bytes.
    """
    texts = [*TEXTS, "a fatal text", "wind", "moon", "cloud", "honey", "grape", "stone", "sugar"]
    ids = [str(n) for n in range(len(texts))]
    shard = tmp_path / "in" / "a.parquet"
    write_texts(shard, row_group_size=3, text=texts, id=ids)
    data = shard.read_bytes()
    place = data.index(b"stone", data.index(b"grape"))  # the last of four row groups
    shard.write_bytes(data[:place] + b"S" + data[place + 1 :])
    deadly("tokens:fatal", f"encode:{token(tiny_bert, 'moon')}")
    made = {}
    for runner in ("inline", "ray"):
        folder = tmp_path / runner
        folder.mkdir()
        spec = write_spec(
            folder / "job.yaml", tmp_path / "in", str(tiny_bert), folder / "out",
            runner=runner, unit_rows=3, device="cpu",
        )  # fmt: skip
        codes = []
        while codes[-1:] != [0] and len(codes) < 8:
            code, out, errors = finish(start(spec, "--set", "input.on_bad_file=quarantine"))
            codes.append(code)
        assert 0 == code, errors
        assert {"CRASHED": 2, "UNREADABLE": 3} == json.loads(out)["rejects"]
        made[runner] = parts(folder / "out")
        if runner == "inline":
            assert {-signal.SIGSEGV, -signal.SIGKILL} == set(codes[:-1])
            assert 3 <= len(codes) - 1 <= 6
        else:
            assert [0] == codes
    rows = sum(pq.read_metadata(pa.BufferReader(part)).num_rows for part in made["ray"].values())
    assert (7, 4) == (rows, len(made["ray"]))
    assert made["inline"] == made["ray"]
