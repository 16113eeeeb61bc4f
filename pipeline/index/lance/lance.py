"""Lance: one dataset, here or in object storage, that LanceDB opens as a table too.

A load beside what searchers see writes fragments, which nobody sees, and notes each in a receipt
under PATH/_embedmill; one commit then makes them the dataset. Changes of a load are one commit too.
The index is made after the commit: until it is there, Lance compares every record, which is exact.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

os.environ.setdefault("LANCE_LOG", "error")  # read when it is imported

import lance
from lance import FragmentMetadata, LanceDataset, LanceOperation
from lance.fragment import write_fragments

from embedmill.pipeline.identity import digest
from embedmill.pipeline.index.filters import Condition, expression
from embedmill.pipeline.index.keys import keys_in
from embedmill.pipeline.index.lance import storage as words
from embedmill.pipeline.index.lance.receipts import Receipts
from embedmill.pipeline.index.records import portions
from embedmill.pipeline.index.sink import KEY, Fetched, Hit, Loaded, Shape
from embedmill.pipeline.index.values import bits_of, plain
from embedmill.schemas.errors import ConflictError, SpecError, StorageError

# What a load that was killed may leave where no dataset is yet.
OURS = re.compile(
    r"data/[^/]+\.lance|_(versions|transactions|indices|deletions)/.*|_embed/scratch/.*"
    r"|_embedmill/[0-9a-f]{16}/[0-9a-f]{16}\.arrow"
)
FACTS = "embedmill"  # in the dataset's schema metadata
FRAGMENT_ROWS = 1 << 18  # what a load that is killed has to write again
SMALL = 16  # fragments beyond what the rows need, from which on they are put together
OLD = timedelta(days=1)  # what searchers may still read of earlier versions
M, EF_CONSTRUCTION = 20, 150  # docs/indexes.md says why
EF, PROBES, REFINE = 200, 40, 4


class LanceSink:
    """A Lance dataset; see Sink."""

    def __init__(self, path: str, shape: Shape) -> None:
        self.shape, self.warnings = shape, []
        self.path = path.removeprefix("file://")
        self._refuse()
        self._receipts = Receipts(self.path)
        self._table: LanceDataset | None = None
        self._staged: list[tuple[dict[str, Any], np.ndarray]] | None = None  # fragment, its keys
        self._before = 0  # the version to go back to

    def loaded(self) -> Loaded | None:
        if (table := self._open()) is None:
            if theirs := next((n for n in self._receipts.beside() if not OURS.fullmatch(n)), None):
                what = f"has {theirs} and is no sink of ours"
                raise ConflictError("SINK_TAKEN", self.path, what, "choose another path")
            return None
        told = (table.schema.metadata or {}).get(FACTS.encode())
        if told is None:
            what, do = "is a dataset and no sink of ours", "choose another path"
            raise ConflictError("SINK_TAKEN", self.path, what, do)
        return Loaded.from_json(json.loads(told))

    def begin(self, beside: bool, snapshot: str) -> None:
        self._table = self._staged = None
        self._before = self._open().version if self._open() else 0
        if beside:
            load = digest([self.shape.digest, snapshot])[:16]
            self._staged = list(self._receipts.begin(load))

    def keys(self) -> Iterator[np.ndarray]:
        if self._staged is not None:
            yield from (keys for _, keys in self._staged)
        elif (table := self._open()) is not None:
            for batch in table.scanner(columns=[KEY], batch_size=1 << 20).to_batches():
                yield keys_in(batch.column(0))

    def change(self, gone: np.ndarray, come: Iterator[pa.RecordBatch]) -> None:
        if self._staged is not None:
            assert not len(gone), "what is staged is of this snapshot alone. This is a bug."
            for fragment, keys in self._written(come):
                self._receipts.add(fragment.to_json(), keys)
                self._staged.append((fragment.to_json(), keys))
            return
        table = self._open()
        updated = [*self._without(table, gone)]
        new = [fragment for fragment, _ in self._written(come)]
        self._commit(LanceOperation.Update(updated_fragments=updated, new_fragments=new))

    def build(self) -> None:
        if self._staged is not None:
            staged = [FragmentMetadata.from_json(json.dumps(told)) for told, _ in self._staged]
            schema = self._schema().with_metadata({FACTS: "{}"})  # not yet published
            self._commit(LanceOperation.Overwrite(schema, staged))
            self._staged = None
        table = self._open()
        with words.ours(self.path):
            if len(table.get_fragments()) > SMALL + table.count_rows() // FRAGMENT_ROWS:
                table.optimize.compact_files()
            if table.describe_indices():
                table.optimize.optimize_indices()
            elif self.shape.type != "flat" and table.count_rows():
                self._index(table)
        self._table = None

    def count(self) -> int:
        if self._staged is not None:
            return sum(len(keys) for _, keys in self._staged)
        return self._open().count_rows() if self._open() else 0

    def fetch(self, keys: np.ndarray) -> dict[bytes, Fetched]:
        names = [field.name for field in self.shape.carried]
        wanted, found = [KEY, *names, self._vector], {}
        if not len(keys):
            return found
        with words.ours(self.path):
            rows = self._open().to_table(filter=_any_key(map(bytes, keys)), columns=wanted)
        vectors = rows.column(self._vector)
        for n, row in enumerate(rows.select([KEY, *names]).to_pylist()):
            vector = np.asarray(vectors[n].as_py())
            found[row[KEY]] = {k: plain(row[k]) for k in names}, vector
        return found

    def nearest(
        self, query_D: np.ndarray, k: int, where: Sequence[Condition], columns: Sequence[str]
    ) -> list[Hit]:
        bits = self.shape.column.kind == "binary"
        query = np.packbits(query_D > 0) if bits else query_D.astype(np.float32)
        search = {"column": self._vector, "q": query, "k": k, "metric": self.shape.metric}
        if self.shape.type == "hnsw":
            search |= {"ef": max(EF, REFINE * k), "refine_factor": REFINE}
        if self.shape.type == "ivf":  # more of them until a filter has left enough
            search |= {"minimum_nprobes": PROBES, "refine_factor": REFINE}
        with words.ours(self.path):
            rows = self._open().to_table(
                columns=[KEY, *columns, "_distance"],
                nearest=search,
                filter=expression(where),
                prefilter=True,
            )
        return [
            Hit(row[KEY], self._score(row["_distance"]), {n: plain(row[n]) for n in columns})
            for row in rows.to_pylist()
        ]

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def publish(self, loaded: Loaded) -> None:
        table = self._open()
        with words.ours(self.path):
            table.update_schema_metadata({FACTS: json.dumps(loaded.to_json())})
            if self._before:
                table.cleanup_old_versions(OLD, error_if_tagged_old_versions=False)
        self._receipts.clear()

    def refuse(self) -> None:
        table = self._open()
        with words.ours(self.path):
            if self._before:
                table.checkout_version(self._before).restore()
            else:  # there was nothing: the records stay, and are compared one by one
                for index in table.describe_indices():
                    table.drop_index(index.name)
        self._table = None

    def close(self) -> None:
        self._table = None

    @property
    def _vector(self) -> str:
        return self.shape.schema.names[-1]

    def _refuse(self) -> None:
        words.refuse(self.shape.schema.names)
        if self.shape.column.kind == "int8":
            what = "lance has no int8 vectors with a range for each dimension; load float16 or bits"
            raise SpecError("SINK", "", f"index: {what}")

    def _open(self) -> LanceDataset | None:
        """The dataset as it is now; None if there is none."""
        if self._table is None:
            options = words.options(self.path)
            try:
                self._table = lance.dataset(self.path, storage_options=options)
            except ValueError as error:
                if "not found" not in str(error) and "does not exist" not in str(error):
                    raise words.failure(self.path, error) from None
            except OSError as error:
                raise words.failure(self.path, error) from None
        return self._table

    def _schema(self) -> pa.Schema:
        """The dataset's: bits are lists of bytes there."""
        fields = list(self.shape.schema)
        if self.shape.column.kind == "binary":
            kind = pa.list_(pa.uint8(), self.shape.column.dim // 8)
            fields[-1] = pa.field(self._vector, kind, nullable=False)
        return pa.schema(fields)

    def _rows(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.shape.column.kind != "binary":
            return batch
        flat = pa.array(bits_of(batch.column(batch.num_columns - 1)).reshape(-1))
        kind = self._schema().field(self._vector).type
        bits = pa.FixedSizeListArray.from_arrays(flat, type=kind)
        return pa.RecordBatch.from_arrays([*batch.columns[:-1], bits], schema=self._schema())

    def _written(
        self, come: Iterator[pa.RecordBatch]
    ) -> Iterator[tuple[FragmentMetadata, np.ndarray]]:
        """Fragments that no version of the dataset names yet, with their keys."""
        # What is staged may have other columns than what searchers see.
        mode = "append" if self._staged is None else "overwrite"
        for batches in portions(come, FRAGMENT_ROWS):
            keys: list[np.ndarray] = []
            failed: list[BaseException] = []

            def some(batches: Any = batches, keys: Any = keys, failed: Any = failed) -> Any:
                try:
                    for batch in batches:
                        keys.append(keys_in(batch.column(0)))
                        yield self._rows(batch)
                except BaseException as error:  # Lance would tell it in words of its own
                    failed.append(error)
                    raise

            reader = pa.RecordBatchReader.from_batches(self._schema(), some())
            try:
                with words.ours(self.path):
                    (fragment,) = write_fragments(
                        reader, self.path, schema=self._schema(), mode=mode,
                        max_rows_per_file=1 << 30, storage_options=words.options(self.path),
                    )  # fmt: skip
            except StorageError as error:
                raise (failed[0] if failed else error) from None
            yield fragment, np.concatenate(keys)

    def _without(self, table: LanceDataset, gone: np.ndarray) -> Iterator[FragmentMetadata]:
        """The fragments that have one of the keys, without these records."""
        if not len(gone):
            return
        wanted = {key.tobytes() for key in gone}
        for fragment in table.get_fragments():
            with words.ours(self.path):
                keys = fragment.to_table(columns=[KEY]).column(KEY).to_pylist()
                here = wanted.intersection(keys)
                if here:
                    left = fragment.delete(_any_key(here))
                    yield left or fragment.metadata

    def _commit(self, operation: LanceOperation.BaseOperation) -> None:
        version = self._open().version if self._open() else 0
        with words.ours(self.path):
            self._table = LanceDataset.commit(
                self.path, operation, version, storage_options=words.options(self.path)
            )

    def _index(self, table: LanceDataset) -> None:
        rows, bits = table.count_rows(), self.shape.column.kind == "binary"
        if self.shape.type == "hnsw":
            kind, lists = f"IVF_HNSW_{'FLAT' if bits else 'SQ'}", max(1, rows >> 20)
            more = {"m": M, "ef_construction": EF_CONSTRUCTION}
        else:
            kind, lists, more = f"IVF_{'FLAT' if bits else 'SQ'}", max(1, int(rows**0.5)), {}
        metric = self.shape.metric
        table.create_index(self._vector, kind, metric=metric, num_partitions=lists, **more)

    def _score(self, distance: float) -> float:
        """Lance gives 1 - cosine, 1 - dot, the square of L2, and bits that differ."""
        if self.shape.metric == "hamming":
            return 1 - 2 * distance / self.shape.column.dim
        return -float(distance**0.5) if self.shape.metric == "l2" else 1 - distance


def _any_key(keys: Iterable[bytes]) -> str:
    """In SQL, since Lance takes expressions of pyarrow only beside columns of some types."""
    named = ",".join(f"X'{key.hex()}'" for key in keys)  # nothing that could end the list
    return f"{KEY} IN ({named})"
