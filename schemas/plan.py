"""The plan: what a run will do, frozen. Units, and every setting that can move a bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Shard:
    """One version of an input file, as its footer and the store described it."""

    uri: str  # absolute; a local file is a plain path
    name: str  # relative to the fixed part of its pattern; the stem of default ids
    size: int  # bytes
    version: str  # mtime in ns, etag or version id
    footer: str  # sha256 of the Parquet footer, first half
    rows: int

    def same_file(self, other: Shard | None) -> bool:
        """Whether both describe one version of one file."""
        return other is not None and (self.uri, self.size, self.version, self.footer) == (
            other.uri,
            other.size,
            other.version,
            other.footer,
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of rows of one shard."""

    shard: Shard
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What is encoded, committed and retried whole."""

    key: str  # 32 hex digits: input versions, row ranges, fingerprint, part schema
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """Input rows of the unit."""
        return sum(piece.rows for piece in self.slices)


@dataclass(frozen=True, slots=True)
class Settings:
    """What could move a bit of a vector, chosen once and frozen in the plan."""

    precision: str  # exact | fast | int8
    device: str  # cpu | cuda: the device class
    threads: int  # of one encoder
    pack_tokens: int
    unit_rows: int

    @property
    def provenance(self) -> dict[str, str]:
        """Those that a part's footer names."""
        return {"pack_tokens": str(self.pack_tokens), "threads": str(self.threads)}


@dataclass(frozen=True, slots=True)
class VectorColumn:
    """An output column with every `auto` resolved."""

    name: str
    source: str  # encoder | input | scores | sparse
    pooling: str  # one or several joined by "+"; of scores and sparse the activation
    normalize: bool
    dtype: str
    dim: int  # values stored
    full_dim: int  # values the model gives

    @property
    def kind(self) -> str:
        """How it is stored: float | int8 | binary | tokens | scores | sparse."""
        if self.source in ("scores", "sparse"):
            return self.source
        if self.pooling == "tokens":
            return "tokens"
        return self.dtype if self.dtype in ("int8", "binary") else "float"


@dataclass(frozen=True, slots=True)
class Plan:
    """The head of a plan: all that a worker needs beside its unit. Picklable and JSON-able."""

    generation: int  # of the manifest it will make
    base: str  # sha256 of the manifest it stands on; "" = none
    fingerprint: str  # 64 hex digits
    identity: dict[str, Any]  # what the fingerprint is the sha256 of
    output: str  # the output folder
    input: dict[str, Any]  # the spec's input section
    model: dict[str, Any]  # name, revision, folder, digest, max_tokens, prompt
    columns: tuple[VectorColumn, ...]
    id_column: str  # its name in the parts
    carried_schema: str  # id and kept columns as they are stored: base64 of an Arrow schema
    settings: Settings
    ranges: dict[str, str] = field(default_factory=dict)  # of int8 columns: object -> its sha256
    keyed: bool = False  # each part gets its keys, which sinks know its rows by
    reuse: str = ""  # the index of the last snapshot's inputs; "" = none of it can be reused

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """The inverse of to_json."""
        columns = tuple(VectorColumn(**column) for column in value["columns"])
        return cls(**{**value, "columns": columns, "settings": Settings(**value["settings"])})
