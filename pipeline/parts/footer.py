"""Writes and reads the footer of a part."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq

from embedmill.pipeline.batches import Encoded
from embedmill.schemas.footer import FOOTER_KEY, Footer
from embedmill.schemas.plan import Plan


def footer_of(plan: Plan, encoded: Encoded, rejects_path: str, counts: dict[str, int]) -> Footer:
    """The footer of a unit's part. `counts`: what `table.count_inputs` gave."""
    table = encoded.table
    codes = Counter(encoded.rejects.column("code").to_pylist())
    return Footer(
        fingerprint=plan.fingerprint,
        unit_key=encoded.unit.key,
        model={key: plan.model[key] for key in ("name", "revision", "digest")},
        columns=[[c.name, c.source, c.pooling, c.normalize, c.dtype, c.dim] for c in plan.columns],
        counts={
            "rows_in": encoded.unit.rows,
            "vectors": len(table),
            "rows_cut": sum(1 for n in table.column("n_chars_cut").to_pylist() if n),
            **counts,
            "rejects": dict(sorted(codes.items())),
        },
        rejects_path=rejects_path,
        provenance=encoded.provenance,
        ranges=plan.ranges,
    )


def read_footer(metadata: pq.FileMetaData) -> Footer | None:
    """Reads a part's footer; None if the file is not one of ours."""
    return Footer.from_bytes((metadata.metadata or {}).get(FOOTER_KEY, b""))
