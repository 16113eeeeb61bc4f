"""A part's own account of itself: JSON under one key of its Parquet footer.

A promise to all later versions: a resumed run adopts a part by it, a refresh takes provenance from
it, `verify` compares it with the manifest.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

FOOTER_KEY = b"embedmill"


@dataclass(frozen=True, slots=True)
class Footer:
    """The contents of a part, and the provenance of its vectors."""

    fingerprint: str
    unit_key: str
    model: dict[str, Any]  # name, revision, digest
    columns: list[list[Any]]  # of each output column: name, source, pooling, normalize, dtype, dim
    counts: dict[
        str, Any
    ]  # rows_in, rows_out, vectors, rows_cut, rows_deduplicated, tokens, rejects
    rejects_path: str  # "" if no row was rejected
    provenance: list[dict[str, str]]  # engine and software, of each kind of vector in the part
    ranges: dict[str, Any] = field(
        default_factory=dict
    )  # of int8 columns; left out if there are none

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal footers give equal bytes."""
        found = dataclasses.asdict(self)
        if not self.ranges:
            del found["ranges"]
        return json.dumps(found, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Footer | None:
        """Reads what `to_bytes` gave; None if it is not one of ours. Unknown keys are left out."""
        try:
            found = json.loads(data)
            return cls(
                **{f.name: found[f.name] for f in dataclasses.fields(cls) if f.name in found}
            )
        except (ValueError, TypeError):
            return None
