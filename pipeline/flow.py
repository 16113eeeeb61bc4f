"""The corridor: the rooms composed into the three functions that every runner calls.

prepare(unit) -> Prepared, encode(prepared) -> Encoded, commit(encoded) -> PartRecord
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from embedmill.pipeline.batches import Encoded, Prepared
from embedmill.pipeline.index.keys import leave_with
from embedmill.pipeline.pack import pack, sort_used
from embedmill.pipeline.parts.commit import commit_unit
from embedmill.pipeline.parts.table import made_with, part_table, rejects_table
from embedmill.pipeline.read.distinct import distinct, inputs_of, reject_long, rows_of
from embedmill.pipeline.read.unit import read_unit
from embedmill.pipeline.reuse.reuse import reuse, together
from embedmill.pipeline.store.output import open_store
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.pipeline.tokens.unit import tokenize
from embedmill.pipeline.vectors.unit import measured, unit_vectors
from embedmill.schemas.columns import Status
from embedmill.schemas.manifest import PartRecord
from embedmill.schemas.plan import Plan, Unit

if TYPE_CHECKING:
    from embedmill.pipeline.contracts import Loaded


def prepare(plan: Plan, unit: Unit, tokenizer: Tokenizer, crashed: Sequence[int] = ()) -> Prepared:
    """Reads and tokenizes a unit but its `crashed` rows. Equal rows share their sequences."""
    began = time.perf_counter()
    texts = read_unit(plan, unit, crashed)
    hash_R, first_I, input_R = distinct(texts)
    reused = reuse(open_store(plan.output), plan, hash_R.take(first_I))
    todo_I = np.setdiff1d(np.arange(len(first_I)), reused.input_S)
    todo_R = first_I[todo_I].tolist()
    sequences, bad_R = tokenize(plan, tokenizer, texts, todo_R)
    if bad_R:
        same_R = np.flatnonzero(np.isin(input_R, input_R[bad_R]))
        return prepare(plan, unit, tokenizer, [*crashed, *same_R])
    input_S, all_cut = inputs_of(sequences, todo_I), plan.identity["long_text"] == "reject"
    input_R, status_R = reject_long(sequences, input_S, input_R, texts.status_R, all_cut)
    row_V, sequence_V = rows_of(np.append(input_S, reused.input_S), input_R)
    sequences, sequence_V = sort_used(sequences, sequence_V)
    return Prepared(
        unit=unit,
        rows=texts.rows.append_column("input_hash", hash_R),
        status_R=status_R,
        row_V=row_V,
        sequence_V=sequence_V,
        sequences=sequences,
        cu_P1=pack(sequences.cu_S1, plan.settings.pack_tokens),
        unknown=int((sequences.ids_T == tokenizer.unknown_id).sum()),
        reused=reused,
        seconds=time.perf_counter() - began,
    )


def encode(plan: Plan, loaded: Loaded | None, prepared: Prepared) -> Encoded:
    """Runs the packs of a unit, if it has any, and puts its vectors back into input order.

    A vector that is not finite, zero or of a wrong norm makes its row a reject, with all of its
    windows; none is ever written.
    """
    began = time.time()
    vectors = unit_vectors(plan, loaded, prepared)
    ended = time.time()
    row_V, sequence_V = prepared.row_V, prepared.sequence_V
    good_S = np.append(vectors.good_S, np.ones_like(prepared.reused.input_S, bool))
    status_R = prepared.status_R.copy()
    status_R[row_V[~good_S[sequence_V]]] = Status.NON_FINITE
    keep_V = status_R[row_V] == Status.OK
    row_V, sequence_V = row_V[keep_V], sequence_V[keep_V]
    first_V = np.flatnonzero(np.diff(row_V, prepend=-1))  # the first window of each row
    lengths_S = prepared.sequences.lengths_S
    used_S = np.unique(sequence_V[sequence_V < len(lengths_S)])
    engine = made_with(plan, loaded) if loaded is not None and len(lengths_S) else {}
    return Encoded(
        unit=prepared.unit,
        table=part_table(plan, prepared, vectors.arrays, row_V, sequence_V),
        rejects=rejects_table(prepared, status_R),
        rows_out=len(first_V),
        rows_encoded=len(np.intersect1d(sequence_V[first_V], used_S)),
        rows_reused=int((sequence_V[first_V] >= len(lengths_S)).sum()),
        measured=measured(prepared, vectors, used_S),
        clipped=vectors.clipped,
        engine=engine,
        provenance=together([engine] if engine else [], prepared.reused.provenance),
        prepare_seconds=prepared.seconds,
        encode_span=(began, ended),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def commit(plan: Plan, encoded: Encoded) -> PartRecord:
    """Writes the unit's part and makes it visible; leaves its rows' keys if a sink follows."""
    store = open_store(plan.output)
    made = (partial(leave_with, store, plan),) if plan.keyed else ()
    return commit_unit(store, plan, encoded, *made)
