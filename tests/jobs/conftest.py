"""A small committed output, made through the corridor without the front door."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.run import run
from embedmill.pipeline.parts.commit import adopt, commit_snapshot
from embedmill.pipeline.plan.plan import freeze, make_plan
from embedmill.pipeline.reuse.reuse import freeze_index
from embedmill.pipeline.run.inline import run_inline
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.errors import InputError
from embedmill.schemas.spec import Spec
from tests.jobs.nasty import NASTY

WORDS = "apple bread city cloud dog door earth fire grape house lemon map rain river tree yellow"


@dataclass(frozen=True)
class Output:
    """An output, what it was made of, and the spec that made it."""

    spec: Spec
    store: Store
    source: Path

    @property
    def path(self) -> str:
        """The output folder."""
        return str(self.store.root)


def texts(count: int) -> list[str | None]:
    """Texts of several lengths, some equal, with a null and a blank among them."""
    words = WORDS.split()
    made: list[str | None] = [
        " ".join(words[(n * 7 + i) % len(words)] for i in range(1 + n % 9)) for n in range(count)
    ]
    made[5], made[17] = None, "  "
    made[20] = made[3]
    made[40] = "rain " * 300  # longer than the model
    return made


def make_spec(source: Path, folder: Path, out: Path, **more: Any) -> Spec:
    """The spec of an output of units of 50 rows, encoded on the CPU."""
    return Spec.model_validate(
        {
            "input": {
                "path": str(source), "text": "text", "id": "id", "keep": ["title"],
                **more.get("input", {}),
            },
            "model": {"name": str(folder), **more.get("model", {})},
            "output": {"path": str(out), **more.get("output", {})},
            "run": {"device": "cpu", "unit_rows": 50, "workers": 1},
        }
    )  # fmt: skip


def run_by_hand(spec: Spec, units: int | None = None) -> Store:
    """Plans, encodes and commits; with `units`, stops after so many, before the snapshot."""
    store = open_store(spec.output.path)
    planned = freeze_index(store, make_plan(spec, store))
    name = freeze(store, planned)
    run = spec.run.model_copy(update={"workers": 0})
    for _ in run_inline(planned.plan, planned.units[:units], "_embed/log/none/stop", run):
        pass
    if units is None:
        records = [adopt(store, planned.plan, unit) for unit in planned.units]
        commit_snapshot(store, planned, name, [record for record in records if record])
    return store


def flip_a_bit_of(store: Store, path: str, column: str) -> None:
    """Changes one bit of a value in a part, where only a checksum can see it."""
    data = bytearray(store.read(path))
    group = pq.read_metadata(pa.BufferReader(bytes(data))).row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    chunk = next(c for c in chunks if c.path_in_schema.split(".")[0] == column)
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    (store.root / path).write_bytes(data)


@pytest.fixture(scope="session")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, write_texts: Callable[..., Path]
) -> Output:
    """One snapshot over two shards, 160 rows, several parts, with rejects. Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    write = {"row_group_size": 25, "title": [f"title {n}" for n in range(80)]}
    for shard in range(2):
        ids = [f"doc-{shard * 80 + n}" for n in range(80)]
        rows = texts(80) if shard == 0 else [f"{t or 'sun'} moon" for t in texts(80)]
        write_texts(folder / "in" / f"{shard}.parquet", text=rows, id=ids, **write)
    spec = make_spec(
        folder / "in", tiny_bert, folder / "out",
        output={
            "columns": [
                {"name": "vector"},
                {"name": "small", "normalize": True, "dtype": "float16", "dim": 16},
                {"name": "raw", "source": "input", "pooling": "max"},
            ]
        },
    )  # fmt: skip
    return Output(spec, run_by_hand(spec), folder / "in")


@pytest.fixture
def copy(made: Output, tmp_path: Path) -> Output:
    """A copy of the output that a test may damage."""
    shutil.copytree(made.path, tmp_path / "out")
    output = made.spec.output.model_copy(update={"path": str(tmp_path / "out")})
    spec = made.spec.model_copy(update={"output": output})
    return Output(spec, open_store(output.path), made.source)


@pytest.fixture
def two(tmp_path: Path, made: Output) -> Output:
    """An output of two snapshots; the second carries the parts of one shard. Its own input."""
    source = shutil.copytree(made.source, tmp_path / "in")
    out = tmp_path / "out"
    spec = made.spec.model_copy(
        update={
            "input": made.spec.input.model_copy(update={"path": str(source)}),
            "output": made.spec.output.model_copy(update={"path": str(out)}),
        }
    )
    run_by_hand(spec)
    whole = pq.read_table(source / "1.parquet")
    pq.write_table(whole.slice(0, 60), source / "1.parquet")
    return Output(spec, run_by_hand(spec), source)


@pytest.fixture(scope="session")
def nasty(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, write_texts: Callable[..., Path]
) -> str:
    """An output where every name and value that a corpus can choose is nasty."""
    folder = tmp_path_factory.mktemp("nasty") / NASTY[1].replace("/", "\\")
    rows = texts(80)
    ids = [f"{NASTY[n % len(NASTY)]}{n}" for n in range(80)]
    for n in range(22, 22 + len(NASTY)):  # these are in the rejects too
        rows[n] = None
    title = [NASTY[(n + 1) % len(NASTY)] for n in range(80)]
    write_texts(folder / "in" / f"{NASTY[2]}.parquet", text=rows, id=ids, **{"<b>": title})
    spec = make_spec(
        folder / "in", tiny_bert, folder / "out",
        input={"keep": ["<b>"]},
        output={"columns": [{"name": "<script>"}], "quality": {"reject_rate": {"warn": 0}}},
    )  # fmt: skip
    unit_rows = spec.run.model_copy(update={"unit_rows": 10, "runner": "inline"})
    run(spec.model_copy(update={"run": unit_rows}))
    with pytest.raises(InputError):  # and a night that failed, with a nasty word to say
        run(spec.model_copy(update={"input": spec.input.model_copy(update={"text": NASTY[0]})}))
    return spec.output.path
