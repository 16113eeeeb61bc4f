"""Qdrant inside this process: a shard of its engine in a folder of its own, one folder a load.

It has no write-ahead log, since nothing but whole batches counts: a batch is there once it is
flushed, and a load that was killed goes on after the last one. Changes are made in a copy of what
searchers see, which takes its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import qdrant_edge as qdrant

from embedmill.pipeline.identity import digest
from embedmill.pipeline.index.filters import Condition
from embedmill.pipeline.index.qdrant import points as points
from embedmill.pipeline.index.records import gather
from embedmill.pipeline.index.sink import Fetched, Hit, Loaded, Shape
from embedmill.pipeline.index.values import bits_of
from embedmill.pipeline.index.versions import Versions
from embedmill.schemas.errors import SpecError, StorageError

SHARD = "shard"
DISTANCES = {
    "cosine": qdrant.Distance.Cosine, "dot": qdrant.Distance.Dot, "l2": qdrant.Distance.Euclid,
}  # fmt: skip
TYPES = {
    "float32": qdrant.VectorStorageDatatype.Float32,
    "float16": qdrant.VectorStorageDatatype.Float16,
}
FLUSHED = 16  # batches from one flush to the next: what a load that is killed does again
LISTED = 100_000  # ids asked for at once


class EdgeSink:
    """A shard in a folder; see Sink."""

    def __init__(self, path: str, shape: Shape) -> None:
        self.shape, self.warnings = shape, []
        points.refuse(shape)
        self._versions = Versions(Path(path))
        self._folder: Path | None = None  # of the load in work; None: what searchers see
        self._shard: Any = None

    def loaded(self) -> Loaded | None:
        return self._versions.loaded()

    def begin(self, beside: bool, snapshot: str) -> None:
        self._versions.lock()
        self.close_shard()
        self._folder = None
        if beside:
            load = digest([self.shape.digest, snapshot])[:16]
            self._folder = self._versions.beside(f"-{load}")

    def keys(self) -> Iterator[np.ndarray]:
        shard, offset = self._open(), None
        while shard is not None:
            request = qdrant.ScrollRequest(
                offset=offset, limit=LISTED, with_payload=False, with_vector=False
            )
            some, offset = shard.scroll(request)
            yield points.keys(some)
            if offset is None:
                return

    def change(self, gone: np.ndarray, come: Iterator[pa.RecordBatch]) -> None:
        if self._folder is None:
            before = self._versions.current()
            self.close_shard()
            self._folder = self._versions.beside()
            shutil.copytree(before / SHARD, self._folder / SHARD)
        shard = self._open() or self._create()
        with self._told():
            if len(gone):
                shard.update(qdrant.UpdateOperation.delete_points(points.ids(gone)))
            for n, rows in enumerate(gather(come, points.BATCH_ROWS, points.BATCH_BYTES), 1):
                ids = points.ids(bits_of(rows.column(0).combine_chunks()))
                made = zip(ids, points.vectors(rows), points.payloads(rows), strict=True)
                some = [qdrant.Point(*one) for one in made]
                shard.update(qdrant.UpdateOperation.upsert_points(some))
                if n % FLUSHED == 0:
                    shard.flush()
            shard.flush()

    def build(self) -> None:
        if self._folder is not None:
            shard = self._open() or self._create()
            with self._told():
                if self.shape.type == "hnsw":
                    shard.optimize()
                shard.flush()

    def count(self) -> int:
        shard = self._open()
        return 0 if shard is None else shard.count(qdrant.CountRequest())

    def fetch(self, keys: np.ndarray) -> dict[bytes, Fetched]:
        names = [field.name for field in self.shape.carried]
        shard = self._open()
        some = shard.retrieve(points.ids(keys), True, True) if shard is not None else []
        return {points.keys([one])[0].tobytes(): points.fetched(one, names) for one in some}

    def nearest(
        self, query_D: np.ndarray, k: int, where: Sequence[Condition], columns: Sequence[str]
    ) -> list[Hit]:
        shard = self._open()
        if shard is None:
            return []
        request = qdrant.QueryRequest(
            limit=k,
            query=qdrant.Query.Nearest(query_D.astype(np.float32).tolist()),
            filter=_filter(where),
            params=qdrant.SearchParams(
                hnsw_ef=max(points.EF_SEARCH, k), exact=self.shape.type == "flat"
            ),
            with_payload=bool(columns),
        )
        return [points.hit(one, self.shape, columns) for one in shard.query(request)]

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def publish(self, loaded: Loaded) -> None:
        folder = self._folder or self._versions.current()
        self._versions.describe(folder, loaded)
        self._versions.publish(folder)

    def refuse(self) -> None:
        self.close_shard()
        self._folder = None

    def close(self) -> None:
        self.close_shard()
        self._versions.close()

    def close_shard(self) -> None:
        """Lets go of the files."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _open(self) -> Any:
        """The shard of the load in work, or of what searchers see; None if there is none."""
        folder = self._folder or self._versions.current()
        if self._shard is None and folder is not None and (folder / SHARD).is_dir():
            try:
                self._shard = qdrant.EdgeShard.load(str(folder / SHARD))
            except Exception as error:  # the engine has no class of its own for what is damaged
                if any((folder / SHARD).iterdir()):
                    what, do = f"cannot be read ({error})", "delete the folder and index again"
                    raise StorageError("SINK", str(folder), what, do) from None
        return self._shard

    def _create(self) -> Any:
        flat = self.shape.type == "flat"
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(
                size=self.shape.column.dim,
                distance=DISTANCES[self.shape.metric],
                datatype=TYPES[self.shape.column.dtype],
            ),
            hnsw_config=qdrant.HnswIndexConfig(
                m=0 if flat else points.M,
                ef_construct=points.EF_CONSTRUCTION,
                full_scan_threshold=10_000,
            ),
            optimizers=qdrant.EdgeOptimizersConfig(indexing_threshold=1),
            wal_enabled=False,
        )
        shard = self._folder / SHARD
        shutil.rmtree(shard, ignore_errors=True)
        shard.mkdir()
        with self._told():
            self._shard = qdrant.EdgeShard.create(str(shard), config)
        return self._shard

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the engine says while it writes, as one line."""
        try:
            yield
        except Exception as error:
            if type(error) is not Exception:  # it has no class of its own for what goes wrong
                raise
            what = " ".join(f"cannot be written ({error})".split())[:300]
            do = "mend it and index again"
            raise StorageError("SINK", str(self._folder), what, do) from None


def _filter(where: Sequence[Condition]) -> qdrant.Filter | None:
    must: dict[bool, list[Any]] = {True: [], False: []}
    for holds, key, kind, value in points.tests(where):
        if isinstance(value, bool):
            what = "search: qdrant inside this process cannot filter by true and false"
            raise SpecError("WHERE", "", what)
        must[holds].append(
            qdrant.IsEmptyCondition(key) if kind == "empty"
            else qdrant.FieldCondition(key, match=qdrant.MatchValue(value)) if kind == "match"
            else qdrant.FieldCondition(key, range=qdrant.RangeFloat(**value)) if kind == "range"
            else qdrant.FieldCondition(key, range=qdrant.RangeDateTime(**value))
        )  # fmt: skip
    return qdrant.Filter(must=must[True], must_not=must[False]) if where else None
