"""FAISS: an index file and a Parquet file of rows, in a folder of their own.

    PATH/current/index.faiss     its ids are `faiss_id` in
    PATH/current/rows.parquet    faiss_id, embedmill_key, id, kept columns

An index lives in memory while it is made, so a load that is killed begins anew; nothing of it was
ever seen. Both files are written whole, into a folder that takes the last one's place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedmill.pipeline.index.faiss.rows import ID, ROWS, Rows, damaged, sync
from embedmill.pipeline.index.filters import Condition, expression
from embedmill.pipeline.index.sink import KEY, Fetched, Hit, Loaded, Shape
from embedmill.pipeline.index.values import bits_of, floats_of, plain
from embedmill.pipeline.index.versions import Versions
from embedmill.schemas.errors import SpecError, StorageError

INDEX = "index.faiss"
M, EF_CONSTRUCTION, EF_SEARCH = 32, 100, 128  # docs/indexes.md says why
CHUNK = 65536
FEW = 100_000  # filtered rows that are compared one by one: a graph hardly reaches a few
CODES = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8"}
METRICS = {"cosine": faiss.METRIC_INNER_PRODUCT, "dot": faiss.METRIC_INNER_PRODUCT}


class FaissSink:
    """FAISS files; see Sink."""

    def __init__(self, path: str, shape: Shape, range_2D: np.ndarray | None) -> None:
        """`range_2D`: of an int8 column."""
        self.shape, self.warnings = shape, []
        self._bits = shape.column.kind == "binary"
        self._versions, self._range_2D = Versions(Path(path)), range_2D
        self._opened: tuple[Rows, Any] | None = None  # rows and index of the load in work
        self._fresh: list[np.ndarray] = []  # vectors that are not in the index yet
        self._refuse()

    def loaded(self) -> Loaded | None:
        return self._versions.loaded()

    def begin(self, beside: bool, snapshot: str) -> None:
        self._versions.lock()
        self._fresh = []
        self._opened = (Rows(None), None) if beside else None

    def keys(self) -> Iterator[np.ndarray]:
        return self._open()[0].keys()

    def change(self, gone: np.ndarray, come: Iterator[pa.RecordBatch]) -> None:
        rows, index = self._open()
        gone_R, ids = rows.among(gone), rows.ids()
        folder = self._versions.beside()
        index = self._without(index, ids, gone_R)
        if index is None and self.shape.type == "flat":
            index = self._empty(0)
        number = rows.next_id()
        for column in rows.write(folder, self.shape.schema, gone_R, come):
            vectors = self._vectors(column)
            if self.shape.type == "flat":
                index.add_with_ids(vectors, np.arange(number, number + len(vectors)))
                number += len(vectors)
            else:
                self._fresh.append(vectors)
        self._opened = rows, index

    def build(self) -> None:
        rows, index = self._open()
        if rows.folder == self._versions.current():
            return
        ids = rows.ids()
        index = index or self._empty(len(ids))
        if not index.is_trained and len(ids):
            index.train(self._sample(len(ids)))
        while self._fresh:
            vectors = self._fresh.pop(0)
            index.add_with_ids(vectors, ids[index.ntotal :][: len(vectors)])
        if self.shape.type == "ivf":
            self._base(index).make_direct_map()  # vectors by id
        write = faiss.write_index_binary if self._bits else faiss.write_index
        try:
            write(index, str(rows.folder / INDEX))
        except RuntimeError as error:
            what, do = f"cannot be written ({error})", "mend it and index again"
            raise StorageError("SINK", str(rows.folder), " ".join(what.split())[:300], do) from None
        for name in (INDEX, ROWS):
            sync(rows.folder / name)
        self._opened = rows, index

    def count(self) -> int:
        rows, index = self._open()
        if index is not None and len(rows.ids()) != index.ntotal:
            what = f"has {len(rows.ids())} rows and {index.ntotal} vectors"
            raise damaged(rows.folder, ValueError(what))
        return len(rows.ids())

    def fetch(self, keys: np.ndarray) -> dict[bytes, Fetched]:
        rows, index = self._open()
        names = [field.name for field in self.shape.carried]
        wanted = pc.field(ID).isin(pa.array(rows.ids()[rows.among(keys)]))
        found = {}
        for row in rows.select(wanted, [ID, KEY, *names]).to_pylist():
            kept = {name: plain(row[name]) for name in names}
            found[row[KEY]] = kept, index.reconstruct(row[ID])
        return found

    def nearest(
        self, query_D: np.ndarray, k: int, where: Sequence[Condition], columns: Sequence[str]
    ) -> list[Hit]:
        rows, index = self._open()
        if index is None or not index.ntotal:
            return []
        query_1D = self._query(query_D)
        ids = rows.select(expression(where), [ID]).column(ID).to_numpy() if where else None
        if ids is not None and (self._bits or len(ids) <= FEW):
            found, distances = self._exact(index, query_1D, ids, k)
        else:
            options = {} if ids is None else {"params": self._among(index, ids)}
            distances, found = (
                a[0] for a in index.search(query_1D, min(k, index.ntotal), **options)
            )
        hits = [(self._score(d), n) for d, n in zip(distances, found, strict=True) if n >= 0]
        wanted = pc.field(ID).isin(pa.array([n for _, n in hits], pa.int64()))
        by_id = {row[ID]: row for row in rows.select(wanted, [ID, KEY, *columns]).to_pylist()}
        return [
            Hit(by_id[n][KEY], score, {c: plain(by_id[n][c]) for c in columns}) for score, n in hits
        ]

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def publish(self, loaded: Loaded) -> None:
        folder = self._open()[0].folder
        self._versions.describe(folder, loaded)
        self._versions.publish(folder)

    def refuse(self) -> None:
        self._opened = None  # the next load removes its folder

    def close(self) -> None:
        self._versions.close()

    def _refuse(self) -> None:
        column = self.shape.column
        if ID in self.shape.schema.names:
            raise SpecError("SINK", "", f"index: {ID!r} is a column of the sink; rename yours")
        if column.kind == "int8" and self.shape.type != "flat":
            raise SpecError("SINK", "", "index: faiss has int8 columns as type: flat alone")
        if column.kind == "int8" and self.shape.metric == "cosine" and not column.normalize:
            what = f"index: the int8 column {column.name!r} is not normalized: metric dot or l2"
            raise SpecError("SINK", "", what)

    def _open(self) -> tuple[Rows, Any]:
        """Rows and index of the load in work: by default of what searchers see."""
        if self._opened is None:
            folder = self._versions.current()
            read = faiss.read_index_binary if self._bits else faiss.read_index
            try:
                self._opened = Rows(folder), folder and read(str(folder / INDEX))
            except RuntimeError as error:
                raise damaged(folder, error) from None
        return self._opened

    def _empty(self, rows: int) -> Any:
        """An index of the shape's type, without vectors. IDMap2: it gives vectors back by id."""
        column, lists = self.shape.column, lists_of(rows)
        if self._bits:
            words = {"flat": "BFlat", "hnsw": f"BHNSW{M}", "ivf": f"BIVF{lists}"}
            base = faiss.index_binary_factory(column.dim, words[self.shape.type])
        else:
            codes = CODES[column.dtype]
            words = {"flat": codes, "hnsw": f"HNSW{M},{codes}", "ivf": f"IVF{lists},{codes}"}
            metric = METRICS.get(self.shape.metric, faiss.METRIC_L2)
            base = faiss.index_factory(column.dim, words[self.shape.type], metric)
        if column.kind == "int8":  # the column's own steps, so that its codes stay as they are
            low_D, high_D = self._range_2D
            steps = np.concatenate([low_D, high_D - low_D]).astype(np.float32)
            faiss.copy_array_to_vector(steps, base.sq.trained)
            base.is_trained = True
        if self.shape.type == "hnsw":
            base.hnsw.efConstruction, base.hnsw.efSearch = EF_CONSTRUCTION, EF_SEARCH
        elif self.shape.type == "ivf":
            base.nprobe = probes_of(lists)
        return (faiss.IndexBinaryIDMap2 if self._bits else faiss.IndexIDMap2)(base)

    def _sample(self, rows: int) -> np.ndarray:
        """Vectors of everywhere to learn centroids from, not of the first parts alone."""
        share, random = min(1.0, 64 * lists_of(rows) / rows), np.random.default_rng(0)
        return np.concatenate([v[random.random(len(v)) <= share] for v in self._fresh])

    def _without(self, index: Any, ids: np.ndarray, gone_R: np.ndarray) -> Any:
        """The index without these; None, its vectors to be added again, if it cannot forget."""
        if index is None or not gone_R.any():
            return index
        if self.shape.type == "flat":
            index.remove_ids(faiss.IDSelectorBatch(ids[gone_R]))
            return index
        vectors = self._base(index).reconstruct_n(0, index.ntotal)[~gone_R]
        self._fresh = [vectors[n : n + CHUNK] for n in range(0, len(vectors), CHUNK)]
        return None

    def _base(self, index: Any) -> Any:
        downcast = faiss.downcast_IndexBinary if self._bits else faiss.downcast_index
        return downcast(index.index)

    def _vectors(self, column: pa.Array) -> np.ndarray:
        """Stored vectors as FAISS takes them: float32 (n, D), of length 1 for cosine; or bits."""
        if self._bits:
            return bits_of(column)
        vectors = floats_of(column, self._range_2D if self.shape.column.kind == "int8" else None)
        if self.shape.metric == "cosine" and self.shape.column.kind != "int8":
            vectors = np.array(vectors, np.float32)  # a copy: it is done in place
            faiss.normalize_L2(vectors)
        return np.ascontiguousarray(vectors, np.float32)

    def _query(self, query_D: np.ndarray) -> np.ndarray:
        if self._bits:
            return np.packbits(query_D > 0)[None]
        norm = np.linalg.norm(query_D) if self.shape.metric == "cosine" else 1
        return np.ascontiguousarray(query_D[None] / norm, np.float32)

    def _score(self, distance: float) -> float:
        if self._bits:
            return 1 - 2 * float(distance) / self.shape.column.dim
        return -float(np.sqrt(max(distance, 0))) if self.shape.metric == "l2" else float(distance)

    def _among(self, index: Any, ids: np.ndarray) -> Any:
        """How to search among some ids alone."""
        chosen = {"sel": faiss.IDSelectorBatch(ids)}
        if self.shape.type == "hnsw":
            return faiss.SearchParametersHNSW(**chosen, efSearch=EF_SEARCH)
        if self.shape.type == "ivf":
            return faiss.SearchParametersIVF(**chosen, nprobe=self._base(index).nprobe)
        return faiss.SearchParameters(**chosen)

    def _exact(
        self, index: Any, query_1D: np.ndarray, ids: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(ids, distances) of the nearest among some, one by one."""
        distances = [np.zeros(0)]
        for first in range(0, len(ids), CHUNK):
            some = ids[first : first + CHUNK]
            vectors = np.stack([index.reconstruct(int(n)) for n in some])
            if self._bits:
                distances.append(np.bitwise_count(vectors ^ query_1D).sum(axis=1))
            elif self.shape.metric == "l2":
                distances.append(((vectors - query_1D) ** 2).sum(axis=1))
            else:
                distances.append(vectors @ query_1D[0])
        distance = np.concatenate(distances)
        nearer = distance if self._bits or self.shape.metric == "l2" else -distance
        best = np.argsort(nearer, kind="stable")[:k]
        return ids[best], distance[best]


def lists_of(rows: int) -> int:
    """How many lists for so many rows: 4 sqrt(n), and 39 rows a list to learn it from."""
    return max(1, min(int(4 * np.sqrt(rows)), rows // 39))


def probes_of(lists: int) -> int:
    """How many of the lists a search looks into."""
    return max(1, min(lists, max(16, lists // 12)))
