"""The contract between the pipeline and any vector index: records go in, and are found again.

A *record* is one row of a part: its key, id, kept columns and vector, and with windows which window
it is. Its *key* is a hash of its id and of all that it holds beside the vector, so a record never
changes: a row that was edited is another record. Whatever a sink holds can therefore be compared
with a snapshot by keys alone, and doing a change twice is doing it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from embedmill.pipeline.identity import digest
from embedmill.schemas.columns import encode_schema
from embedmill.schemas.manifest import KEYS_FORMAT
from embedmill.schemas.plan import VectorColumn

if TYPE_CHECKING:
    from embedmill.pipeline.index.filters import Condition

KEY = "embedmill_key"  # the column, where a sink has columns
KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """What a sink's records are. Two loads of one shape differ in nothing but their keys."""

    fingerprint: str
    column: VectorColumn
    metric: str  # cosine | dot | l2 | hamming
    type: str  # flat | hnsw | ivf
    id_column: str
    schema: pa.Schema  # KEY, id, of windows their number and span, kept columns, the vector
    ranges: str = ""  # sha256 of an int8 column's ranges, which a new output may have others of

    @property
    def digest(self) -> str:
        """64 hex digits; another one is built beside what is there, and takes its place."""
        facts = [KEYS_FORMAT, self.fingerprint, asdict(self.column), self.metric, self.type]
        facts += [self.id_column, encode_schema(self.schema)]
        return digest([*facts, self.ranges] if self.ranges else facts)

    @property
    def carried(self) -> list[pa.Field]:
        """The fields of a record without its key and its vector; the first is the id."""
        return [self.schema.field(n) for n in range(1, len(self.schema) - 1)]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a sink says of the load that searchers see; kept in the sink itself."""

    shape: str  # its digest
    fingerprint: str
    column: str
    metric: str
    type: str
    generation: int  # of the snapshot
    manifest: str  # sha256 of its manifest
    records: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Loaded | None:
        """The inverse of to_json; None if it is something else."""
        try:
            return cls(**value)
        except TypeError:
            return None


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that was found."""

    key: bytes
    score: float
    row: dict[str, Any]  # the columns that were asked for, as JSON has their values


Fetched = tuple[dict[str, Any], np.ndarray]  # the row, its vector; of bits their bytes


class Sink(Protocol):
    """One vector index, open for one process. The verbs below `begin` are about what it began."""

    shape: Shape
    warnings: list[str]  # what had to be stored otherwise than it was

    def loaded(self) -> Loaded | None:
        """What searchers see now; None: nothing yet. ConflictError: the place is not ours."""
        ...

    def begin(self, beside: bool, snapshot: str) -> None:
        """Works on what searchers see; or on a load beside it, of the manifest with that sha256.

        That load is begun now, or was by a process that ended: what it has is resumed.
        """
        ...

    def keys(self) -> Iterator[np.ndarray]:
        """The keys of all records, uint8 (n, 16), some at a time."""
        ...

    def change(self, gone: np.ndarray, come: Iterator[pa.RecordBatch]) -> None:
        """Removes the records with these keys (n, 16), then adds those that come (shape.schema).

        In what searchers see, at once where the sink can.
        """
        ...

    def build(self) -> None:
        """Makes the index over the records, or brings it up to date."""
        ...

    def count(self) -> int:
        """Records there are."""
        ...

    def fetch(self, keys: np.ndarray) -> dict[bytes, Fetched]:
        """Key -> what is carried, and the vector (D,), for those of the keys that are there."""
        ...

    def nearest(
        self, query_D: np.ndarray, k: int, where: Sequence[Condition], columns: Sequence[str]
    ) -> list[Hit]:
        """The k nearest records that meet all conditions, best first, with these columns.

        A higher score is nearer: cosine, dot product, minus the L2 distance, or for bits
        1 - 2 * Hamming distance / dim. Values are as JSON has them.
        """
        ...

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the values that the sink can hold: what is read back equals it."""
        ...

    def publish(self, loaded: Loaded) -> None:
        """Lets searchers see it: all of it at once."""
        ...

    def refuse(self) -> None:
        """Takes back what was begun: searchers go on with what they had."""
        ...

    def close(self) -> None:
        """Lets go of the index."""
        ...
