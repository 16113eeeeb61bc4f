"""Qdrant's server: searchers ask an alias, which is pointed to another collection at one instant.

    COLLECTION                  the alias
    embedmill-HASH-HASH-a, -b   the collections that it may stand for; metadata says what is there

Ids are the records' keys, so every request can be repeated. A server has no transaction over many
points: while changes of what searchers see are made, what is new is there before what is old goes.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import httpx
import numpy as np
import pyarrow as pa
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from embedmill.pipeline.identity import digest
from embedmill.pipeline.index.filters import Condition
from embedmill.pipeline.index.qdrant import points as points
from embedmill.pipeline.index.records import ahead, gather
from embedmill.pipeline.index.sink import Fetched, Hit, Loaded, Shape
from embedmill.pipeline.index.values import bits_of
from embedmill.schemas.errors import ConflictError, StorageError

FACTS = "embedmill"
LISTED = 10_000
DELETED = 10_000
TIMEOUT = 120
POLL_SECONDS = 0.2
IDLE_SECONDS = 5.0  # of a green server that indexes nothing: few points stay without a graph
DISTANCES = {
    "cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "l2": models.Distance.EUCLID,
}  # fmt: skip
T = TypeVar("T")


class QdrantSink:
    """An alias of a server; see Sink."""

    def __init__(self, url: str, collection: str, shape: Shape) -> None:
        """The key of the server is QDRANT_API_KEY's, if it has one."""
        self.shape, self.warnings = shape, []
        points.refuse(shape)
        self.alias, self._target, self._beside = collection, collection, False
        self._stem = f"embedmill-{digest(collection)[:10]}-"
        key = os.environ.get("QDRANT_API_KEY") or None
        with warnings.catch_warnings():  # that a key goes over http: docs/indexes.md says so
            warnings.simplefilter("ignore")
            self._client = QdrantClient(
                url=url, api_key=key, timeout=TIMEOUT, check_compatibility=False
            )

    def loaded(self) -> Loaded | None:
        shown = self._shown()
        theirs = shown is not None and not shown.startswith(self._stem)
        if theirs or (
            shown is None and self._ask(lambda: self._client.collection_exists(self.alias))
        ):
            what, do = "is there and is no sink of ours", "choose another collection"
            raise ConflictError("SINK_TAKEN", self.alias, what, do)
        if shown is None:
            return None
        config = self._ask(lambda: self._client.get_collection(shown)).config
        return Loaded.from_json((config.metadata or {}).get(FACTS))

    def begin(self, beside: bool, snapshot: str) -> None:
        shown, self._beside = self._shown(), beside
        if not beside:
            self._target = shown
            return
        stem = f"{self._stem}{self.shape.digest[:12]}-"
        self._target = stem + ("b" if shown == f"{stem}a" else "a")
        self._drop(but=(shown, self._target))
        if not self._ask(lambda: self._client.collection_exists(self._target)):
            self._create(shown)

    def keys(self) -> Iterator[np.ndarray]:
        offset: Any = None
        while True:
            some, offset = self._scroll(offset)
            if some:
                yield points.keys(some)
            if offset is None:
                return

    def change(self, gone: np.ndarray, come: Iterator[pa.RecordBatch]) -> None:
        for batch in ahead(self._batches(come)):
            self._ask(lambda b=batch: self._client.upsert(self._target, points=b, wait=True))
        for first in range(0, len(gone), DELETED):
            ids = [str(one) for one in points.ids(gone[first : first + DELETED])]
            chosen = models.PointIdsList(points=ids)
            self._ask(lambda c=chosen: self._client.delete(self._target, c, wait=True))

    def build(self) -> None:
        if self._beside and self.shape.type == "hnsw":
            graph = models.HnswConfigDiff(m=points.M)
            self._ask(lambda: self._client.update_collection(self._target, hnsw_config=graph))
        idle = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < idle:
            about = self._ask(lambda: self._client.get_collection(self._target))
            if about.status != models.CollectionStatus.GREEN:  # its optimizers are at work
                idle = time.monotonic() + IDLE_SECONDS
            elif self.shape.type == "flat" or 2 * (about.indexed_vectors_count or 0) >= (
                about.points_count or 0
            ):
                return
            time.sleep(POLL_SECONDS)

    def count(self) -> int:
        return self._ask(lambda: self._client.count(self._target, exact=True)).count

    def fetch(self, keys: np.ndarray) -> dict[bytes, Fetched]:
        names = [field.name for field in self.shape.carried]
        ids = [str(one) for one in points.ids(keys)]
        some = self._ask(
            lambda: self._client.retrieve(self._target, ids, with_payload=True, with_vectors=True)
        )
        return {points.keys([one])[0].tobytes(): points.fetched(one, names) for one in some}

    def nearest(
        self, query_D: np.ndarray, k: int, where: Sequence[Condition], columns: Sequence[str]
    ) -> list[Hit]:
        params = models.SearchParams(
            hnsw_ef=max(points.EF_SEARCH, k), exact=self.shape.type == "flat"
        )
        answer = self._ask(
            lambda: self._client.query_points(
                self._target,
                query=query_D.astype(np.float32).tolist(),
                limit=k,
                query_filter=_filter(where),
                search_params=params,
                with_payload=bool(columns),
            )
        )
        return [points.hit(one, self.shape, columns) for one in answer.points]

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def publish(self, loaded: Loaded) -> None:
        facts = {FACTS: loaded.to_json()}
        self._ask(lambda: self._client.update_collection(self._target, metadata=facts))
        shown = self._shown()
        if shown != self._target:
            new = models.CreateAlias(collection_name=self._target, alias_name=self.alias)
            steps: list[Any] = [models.CreateAliasOperation(create_alias=new)]
            if shown is not None:
                old = models.DeleteAlias(alias_name=self.alias)
                steps.insert(0, models.DeleteAliasOperation(delete_alias=old))
            self._ask(lambda: self._client.update_collection_aliases(steps))
        self._drop(but=(self._target,))

    def refuse(self) -> None:
        self._target = self.alias

    def close(self) -> None:
        self._client.close()

    def _create(self, shown: str | None) -> None:
        """A collection without a graph, which is made when all points are there."""
        vector = models.VectorParams(
            size=self.shape.column.dim,
            distance=DISTANCES[self.shape.metric],
            datatype=models.Datatype(self.shape.column.dtype),
        )
        graph = models.HnswConfigDiff(m=0, ef_construct=points.EF_CONSTRUCTION)
        self._ask(
            lambda: self._client.create_collection(
                self._target, vectors_config=vector, hnsw_config=graph
            )
        )
        if shown is not None:  # whoever filters by a column has made an index for it: keep those
            schema = self._ask(lambda: self._client.get_collection(shown)).payload_schema
            for name, index in (schema or {}).items():
                kind = index.params or index.data_type
                self._ask(
                    lambda n=name, k=kind: self._client.create_payload_index(
                        self._target, n, field_schema=k
                    )
                )

    def _batches(self, come: Iterator[pa.RecordBatch]) -> Iterator[models.Batch]:
        for rows in gather(come, points.BATCH_ROWS, points.BATCH_BYTES):
            ids = points.ids(bits_of(rows.column(0).combine_chunks()))
            yield models.Batch.model_construct(
                ids=[str(one) for one in ids],
                vectors=points.vectors(rows),
                payloads=list(points.payloads(rows)),
            )

    def _scroll(self, offset: Any) -> tuple[Any, Any]:
        return self._ask(
            lambda: self._client.scroll(
                self._target, limit=LISTED, offset=offset, with_payload=False, with_vectors=False
            )
        )

    def _shown(self) -> str | None:
        """The collection that the alias stands for."""
        aliases = self._ask(self._client.get_aliases).aliases
        return next((a.collection_name for a in aliases if a.alias_name == self.alias), None)

    def _drop(self, but: tuple[str | None, ...]) -> None:
        """Removes collections that the alias stood for, or was going to."""
        for one in self._ask(self._client.get_collections).collections:
            if one.name.startswith(self._stem) and one.name not in but:
                self._ask(lambda n=one.name: self._client.delete_collection(n))

    def _ask(self, call: Callable[[], T]) -> T:
        """What the server answers; its complaints become one line."""
        do = "check the url and QDRANT_API_KEY; the same command resumes"
        try:
            return call()
        except UnexpectedResponse as error:
            what = f"Qdrant answers {error.status_code}: {error.content.decode(errors='replace')}"
            raise StorageError("SINK", self.alias, " ".join(what.split())[:300], do) from None
        except (ApiException, QdrantException, httpx.HTTPError, OSError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StorageError("SINK_AWAY", self.alias, f"Qdrant: {said[:300]}", do) from None


def _filter(where: Sequence[Condition]) -> models.Filter | None:
    must: dict[bool, list[Any]] = {True: [], False: []}
    for holds, key, kind, value in points.tests(where):
        must[holds].append(
            models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) if kind == "empty"
            else models.FieldCondition(key=key, match=models.MatchValue(value=value))
            if kind == "match"
            else models.FieldCondition(key=key, range=models.Range(**value)) if kind == "range"
            else models.FieldCondition(key=key, range=models.DatetimeRange(**value))
        )  # fmt: skip
    return models.Filter(must=must[True], must_not=must[False]) if where else None
