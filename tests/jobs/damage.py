"""Ways to damage an output, some so that only one check can see it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.jobs.verify.output import verify
from embedmill.pipeline.parts.footer import read_footer
from embedmill.pipeline.parts.write import part_bytes
from embedmill.pipeline.snapshot.read import Snapshot, required, table
from embedmill.pipeline.store.ipc import ipc_bytes
from embedmill.pipeline.store.output import Store
from embedmill.schemas.manifest import PART_TABLE, manifest_name
from tests.jobs.conftest import Output


def newest(store: Store) -> Snapshot:
    return required(store)


def parts(store: Store) -> list[dict[str, Any]]:
    return table(store, newest(store).manifest).to_pylist()


def put(store: Store, name: str, data: bytes | pa.Buffer) -> None:
    (store.root / name).write_bytes(data)


def recommit(store: Store, rows: list[dict[str, Any]]) -> None:
    """Makes the newest manifest name another table, sums and digests included."""
    data = ipc_bytes(pa.Table.from_pylist(rows, schema=PART_TABLE))
    sha256 = hashlib.sha256(data).hexdigest()
    names = ("rows_in", "rows_out", "rows_cut", "tokens")
    sums = {name: sum(row[name] for row in rows) for name in names}
    rejects: dict[str, int] = {}
    for row in rows:
        for code, count in dict(row["rejects"]).items():
            rejects[code] = rejects.get(code, 0) + count
    manifest = replace(
        newest(store).manifest, parts=len(rows), table=f"000001-{sha256[:16]}.arrow",
        table_sha256=sha256, rejects=rejects, **sums,
    )  # fmt: skip
    put(store, f"_embed/manifest/{manifest.table}", data)
    put(store, manifest_name(manifest.generation), manifest.to_bytes())


def change_part(store: Store, number: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrites a part in its own format, and everything that names its digest."""
    rows = parts(store)
    path = rows[number]["path"]
    whole = pq.read_table(store.root / path)
    footer = read_footer(pq.read_metadata(store.root / path))
    data = part_bytes(change(whole), [], footer)
    put(store, path, data)
    rows[number] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": data.size}
    recommit(store, rows)


def found(output: Output, *words: str) -> list[str]:
    """The problems; asserts that one has all the words, and that all are one line with advice."""
    result = verify(output.path)
    problems = result["problems"]
    assert not result["ok"]
    assert all("\n" not in line and "; " in line and output.path in line or "/in/" in line
               for line in problems), problems  # fmt: skip
    assert any(all(word in line for word in words) for line in problems), problems
    return problems


def set_value(column: str, row: int, value: float) -> Callable[[pa.Table], pa.Table]:
    """A change of the first value of a vector."""

    def change(whole: pa.Table) -> pa.Table:
        at = whole.schema.get_field_index(column)
        kind = whole.schema.field(at).type
        flat = whole.column(at).combine_chunks().flatten().to_numpy(zero_copy_only=False).copy()
        flat[row * kind.list_size] = value
        array = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
        return whole.set_column(at, whole.schema.field(at), array)

    return change
