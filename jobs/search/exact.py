"""Exact nearest rows, straight from the parts of the newest snapshot; there is no index to build.

The vectors stream past in batches, so memory does not grow with the corpus. A batch is scored
in float32 first; only rows that can still be among the best are scored again in float64, one by
one, so that equal vectors have equal scores wherever they lie and ties go by order.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.jobs.search.sink import as_hit, search_sink
from embedmill.pipeline import load
from embedmill.pipeline.batches import Pack
from embedmill.pipeline.index.filters import Condition, conditions, meets
from embedmill.pipeline.index.keys import carried_fields
from embedmill.pipeline.index.records import batch_rows, opened
from embedmill.pipeline.index.values import DECODERS, plain, vectors_of
from embedmill.pipeline.model.folder import open_model
from embedmill.pipeline.snapshot.read import read_plan, required, table
from embedmill.pipeline.store.output import Store, open_store
from embedmill.pipeline.vectors.ranges import ranges_of
from embedmill.schemas.errors import ModelError, SpecError
from embedmill.schemas.plan import Plan, VectorColumn
from embedmill.schemas.terminal import visible

BATCH_ROWS = 4096
KEPT_ROWS = 256  # kept columns may hold whole documents
EXACT_ROWS = 512  # scored in float64 at once
QUERY_PROMPT = "query"  # the name that sentence-transformers gives it

Hit = tuple[float, int, int, int]  # score, then what decides ties: -order, -part, -row


def search(
    output: str, query: str, *, k: int = 10, prompt: str | None = None, column: str | None = None,
    where: Sequence[str] = (), sink: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The k rows of the newest snapshot with the highest cosine to the query, best first.

    `prompt`: a prompt's name in the model's config, or a literal; None is the model's own query
    prompt, or that of the rows if it has none. `column`: a vector column, by default the first
    that can be searched. An int8 code counts as the middle of its step; for bits the query
    becomes bits too, and the score is 1 - 2 * Hamming distance / dim. `where`: conditions
    COLUMN=VALUE (or !=, <, <=, >, >=) that all must hold. `sink`: ask the sink of that name in
    place of the parts; its metric is what near means.
    """
    _refuse(query, k)
    store = open_store(output)
    manifest = required(store).manifest
    plan, _ = read_plan(store, manifest.plan)
    put_before = _prompt(plan, prompt)
    result = {"query": query, "prompt": put_before}
    if sink is not None:
        vector = partial(finished, text=put_before + query)
        return result | search_sink(store, plan, sink, column, where, k, vector)
    chosen = _column(plan, column)
    decode = _decoder(plan, chosen)
    paths = table(store, manifest).column("path").to_pylist()
    wanted = conditions(where, carried_fields(plan))
    query_D = query_vector(plan, chosen, put_before + query)
    if chosen.kind == "binary":
        query_D = np.where(query_D > 0, 1.0, -1.0) / np.sqrt(len(query_D))
    best = _nearest(store, paths, chosen.name, query_D, k, decode, wanted)
    return result | {"column": chosen.name, "hits": _hits(store, plan, paths, best)}


def search_text(result: dict[str, Any]) -> str:
    """The hits for people, one a line: rank, score, id, kept columns."""
    if not result["hits"]:
        return "no rows"
    ids = [visible(str(hit["id"])) for hit in result["hits"]]
    width = min(40, max(map(len, ids)))
    lines = []
    for rank, (hit, known) in enumerate(zip(result["hits"], ids, strict=True), 1):
        kept = [str(value) for name, value in hit.items() if name not in ("id", "score")]
        rest = " | ".join(visible(" ".join(text.split())[:120]) for text in kept)
        lines.append(f"{rank:>3}  {hit['score']:.4f}  {known:<{width}}  {rest}".rstrip())
    return "\n".join(lines)


def query_vector(plan: Plan, column: VectorColumn, text: str) -> np.ndarray:
    """The text's vector in a column of the plan, made exactly like a row's; float64, norm 1."""
    vector_D = finished(plan, column, text)
    return vector_D / np.linalg.norm(vector_D)


def finished(plan: Plan, column: VectorColumn, text: str) -> np.ndarray:
    """The same as a row would have it before it is quantized: float64 (D,)."""
    from embedmill.pipeline.vectors.pool import faults, finish, pooled

    plan = load.on_this_machine(plan)
    sequences = load.load_tokenizer(plan).encode([text], None)
    pack = Pack(sequences.ids_T, sequences.cu_S1, sequences.second_S)
    loaded = load.load_encoder(plan)
    hidden = loaded.encoder.encode(pack)
    finished_SD = finish(pooled(hidden, pack.cu_S1, column, loaded), column)
    if bool(faults(finished_SD, pack.cu_S1, column).any()):
        raise ModelError("NON_FINITE", "query", "the model gives it no usable vector", "reword it")
    return finished_SD[0].cpu().numpy().astype(np.float64)


def _refuse(query: str, k: int) -> None:
    if not query.strip():
        raise SpecError("QUERY", "", "search: the query is empty; write some words")
    try:
        query.encode()
    except UnicodeEncodeError:
        raise SpecError("QUERY", "", "search: the query is not UTF-8") from None
    if k < 1:
        raise SpecError("K", "", f"search: k is {k}; ask for 1 hit or more")


def _column(plan: Plan, name: str | None) -> VectorColumn:
    known = {column.name: column for column in plan.columns if column.kind in DECODERS}
    said = f"can be searched: {', '.join(known) or 'none'}"
    if name is None and known:
        return next(iter(known.values()))
    if name not in known:
        kinds = {column.name: f"holds {column.kind}" for column in plan.columns}
        what = f"{name!r} {kinds.get(name, 'is no vector column')}; " if name else ""
        raise SpecError("COLUMN", "", f"search: {what}{said}")
    return known[name]


def _decoder(plan: Plan, column: VectorColumn) -> Callable[[pa.Array], np.ndarray]:
    """What gives a column's stored values as (R, D) floats."""
    range_2D = ranges_of(plan).get(column.name)
    return lambda stored: DECODERS[column.kind](stored, range_2D)


def _prompt(plan: Plan, prompt: str | None) -> str:
    model = open_model(plan.model["name"], plan.model["revision"])
    if prompt is not None:
        return model.prompt(prompt)
    # A folder whose prompts are all empty only names them.
    has_own = QUERY_PROMPT in model.prompts and any(model.prompts.values())
    if has_own:
        return model.prompts[QUERY_PROMPT]
    asked = plan.input.get("prompt") not in (None, "auto")
    return plan.model["prompt"] if asked else model.default_prompt


def _nearest(
    store: Store, paths: list[str], name: str, query_D: np.ndarray, k: int,
    decode: Callable[[pa.Array], np.ndarray] = vectors_of, where: Sequence[Condition] = (),
) -> list[Hit]:  # fmt: skip
    """The k best rows of all parts, best first; a min-heap holds the best so far."""
    heap: list[Hit] = []
    order = 0
    # What float32 can be wrong by: a row below the k-th score by more cannot be a hit.
    margin = 4 * len(query_D) * float(np.finfo(np.float32).eps)
    query32_D = query_D.astype(np.float32)
    for part, path in enumerate(paths):
        first = 0
        with opened(store, path) as file:
            names = list(dict.fromkeys([name, *(one.column for one in where)]))
            rows = min(BATCH_ROWS, batch_rows(file.metadata, names))
            for batch in file.iter_batches(rows, columns=names):
                vectors_RD = decode(batch.column(name)).astype(np.float32, copy=False)
                norms_R = np.sqrt(np.einsum("rd,rd->r", vectors_RD, vectors_RD))
                with np.errstate(invalid="ignore", divide="ignore"):
                    score_R = vectors_RD @ query32_D / norms_R
                bar = heap[0][0] if len(heap) == k else -2.0
                candidates = np.flatnonzero((score_R >= bar - margin) & meets(where, batch))
                # Best first, so that the bar rises before most candidates are looked at.
                candidates = candidates[np.argsort(-score_R[candidates], kind="stable")]
                for row, score in _exact(vectors_RD, candidates, query_D, score_R, heap, k, margin):
                    hit = (score, -(order + row), -part, -(first + row))
                    if len(heap) < k:
                        heapq.heappush(heap, hit)
                    elif hit > heap[0]:
                        heapq.heapreplace(heap, hit)
                first += len(batch)
                order += len(batch)
    return sorted(heap, reverse=True)


def _exact(
    vectors_RD: np.ndarray, candidates: np.ndarray, query_D: np.ndarray, score_R: np.ndarray,
    heap: list[Hit], k: int, margin: float,
) -> Iterator[tuple[int, float]]:  # fmt: skip
    """(row, exact score) of the candidates, until none of the rest can be a hit."""
    for start in range(0, len(candidates), EXACT_ROWS):
        rows = candidates[start : start + EXACT_ROWS]
        if len(heap) == k and score_R[rows[0]] < heap[0][0] - margin:
            return
        wide_RD = vectors_RD[rows].astype(np.float64)
        # Sums over the last axis add a row's values in one order, unlike a matrix product.
        dot_R = (wide_RD * query_D).sum(axis=1)
        norm_R = np.sqrt((wide_RD * wide_RD).sum(axis=1))
        yield from zip(rows.tolist(), (dot_R / norm_R).tolist(), strict=True)


def _hits(store: Store, plan: Plan, paths: list[str], best: list[Hit]) -> list[dict[str, Any]]:
    """The id and the kept columns of the best rows; only their row groups are read."""
    by_part: dict[int, list[int]] = defaultdict(list)
    for _, _, part, row in best:
        by_part[-part].append(-row)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    skip = {*(column.name for column in plan.columns), "n_tokens", "n_chars_cut", "input_hash"}
    for part, wanted in by_part.items():
        with opened(store, paths[part]) as file:
            names = [name for name in file.schema_arrow.names if name not in skip]
            for row, values in _rows(file, sorted(wanted), names):
                rows[part, row] = values
    hits = []
    for score, _, part, row in best:
        hits.append(as_hit(plan.id_column, score, rows[-part, -row]))
    return hits


def _rows(
    file: pq.ParquetFile, wanted: list[int], names: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, its values) for row numbers in rising order."""
    begin = 0
    for group in range(file.num_row_groups):
        end = begin + file.metadata.row_group(group).num_rows
        if any(begin <= row < end for row in wanted):
            first = begin
            for batch in file.iter_batches(KEPT_ROWS, row_groups=[group], columns=names):
                for row in wanted:
                    if first <= row < first + len(batch):
                        values = batch.slice(row - first, 1).to_pylist()[0]
                        yield row, {name: plain(value) for name, value in values.items()}
                first += len(batch)
        begin = end
