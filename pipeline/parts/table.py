"""A unit's vectors back in input order: the table of its part, and its rejects."""

from __future__ import annotations

import functools
import platform
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedmill.pipeline.batches import Prepared
from embedmill.pipeline.read.unit import locate
from embedmill.schemas.columns import REJECTS, Status, part_schema
from embedmill.schemas.plan import Plan

if TYPE_CHECKING:
    from embedmill.pipeline.contracts import Loaded


def part_table(
    plan: Plan,
    prepared: Prepared,
    vectors: dict[str, pa.Array],
    row_V: np.ndarray,
    sequence_V: np.ndarray,
) -> pa.Table:
    """The rows of a part: row_V of the unit, each with the values (S) of its sequence.

    Behind the values of the sequences come those that are reused.
    """
    schema = part_schema(plan)
    windows = prepared.sequences.windows
    if windows and plan.identity["long_text"] == "window_mean":  # all have their row's mean
        number_S = np.append(windows.number_S, np.zeros_like(prepared.reused.input_S))
        first_V = number_S[sequence_V] == 0
        row_V, sequence_V = row_V[first_V], sequence_V[first_V]
    rows, at = prepared.rows.take(pa.array(row_V)), pa.array(sequence_V)
    values = {**vectors, **_facts(plan, prepared)}
    arrays = []
    for field in schema:
        if field.name in values:
            reused = prepared.reused.table.column(field.name).chunks
            whole = pa.chunked_array([values[field.name], *reused], values[field.name].type)
            arrays.append(whole.combine_chunks().take(at))
        else:
            arrays.append(rows.column(field.name))
    return pa.Table.from_arrays(arrays, schema=schema)


def _facts(plan: Plan, prepared: Prepared) -> dict[str, pa.Array]:
    """What a part says of each sequence beside its vectors."""
    sequences, windows = prepared.sequences, prepared.sequences.windows
    tokens_S, facts = sequences.lengths_S, {}
    if windows and plan.identity["long_text"] == "window_mean":
        tokens_S = np.bincount(windows.text_S, tokens_S)[windows.text_S]
    elif windows:
        start_S, end_S = windows.span_S2.T
        facts = {"window": windows.number_S, "char_start": start_S, "char_end": end_S}
    facts |= {"n_tokens": tokens_S.astype(np.int32), "n_chars_cut": sequences.cut_S}
    return {name: pa.array(values_S) for name, values_S in facts.items()}


def count_inputs(parts: pa.Table, long_text: str) -> dict[str, int]:
    """Counts of a part that follow from its columns input_hash, n_tokens and window."""
    hashes = parts.column("input_hash").combine_chunks().dictionary_encode()
    first_V = np.ones(len(parts), bool)
    if long_text == "window":
        first_V = parts.column("window").to_numpy() == 0
    row_V, input_V = np.cumsum(first_V) - 1, hashes.indices.to_numpy()
    first_I = np.full(len(hashes.dictionary), len(parts))
    np.minimum.at(first_I, input_V, row_V)
    tokens_V = parts.column("n_tokens").to_numpy()[row_V == first_I[input_V]]
    rows = int(first_V.sum())
    return {
        "rows_out": rows,
        "rows_deduplicated": rows - len(first_I),
        "tokens": int(tokens_V.sum()),
    }


def rejects_table(prepared: Prepared, status_R: np.ndarray) -> pa.Table:
    ids = prepared.rows.column(0)
    rows = []
    for row in np.flatnonzero(status_R != Status.OK):
        shard, number = locate(prepared.unit, int(row))
        value = ids[int(row)].as_py()
        code = Status(status_R[row]).name
        rows.append(
            {
                "id": None if value is None else str(value),
                "shard": shard,
                "row": number,
                "code": code,
            }
        )
    return pa.Table.from_pylist(rows, schema=REJECTS)


def made_with(plan: Plan, loaded: Loaded) -> dict[str, str]:
    """What a vector of this encoder was made with: provenance, never identity."""
    return {**loaded.engine, **software(), **plan.settings.provenance}


@functools.cache
def software() -> dict[str, str]:
    """Versions that can move a bit: provenance, never identity."""
    import tokenizers
    import torch

    return {
        "torch": torch.__version__,
        "pyarrow": pa.__version__,
        "tokenizers": tokenizers.__version__,
        "machine": platform.machine(),
        "isa": torch.backends.cpu.get_cpu_capability(),
    }
