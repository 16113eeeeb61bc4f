"""Turns the spec's `auto`s into what the model and the machine say, and names the encoding.

The result is the identity (hashed to the fingerprint), the output columns and the settings; none
of it depends on the runner or on how many workers there are.
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from embedmill.pipeline.identity import NUMERICS
from embedmill.pipeline.model.claims import refuse_projection
from embedmill.pipeline.model.folder import DENSE_MARK, ModelFolder
from embedmill.pipeline.model.heads import activation_of, count_labels
from embedmill.schemas.errors import ModelError, SpecError
from embedmill.schemas.plan import Settings, VectorColumn
from embedmill.schemas.spec import Column, Spec

PACK_TOKENS = {"cpu": 2048, "cuda": 32768}  # most of one pack
STATE_VALUES = 1 << 24  # of a pack on a GPU, tokens times width: beyond that its cache is too small
UNIT_ROWS = {"cpu": 2048, "cuda": 65536}  # ten seconds of work, or more where a unit costs more
MAX_PART_BYTES = 256 << 20  # a part is committed by one request, from memory
WINDOWS_OF_A_ROW = 16  # for the size of a unit
SPARSE_ENTRIES = 1024  # of one row, for the size of a unit: a trained SPLADE has some hundred
HEADS = {"scores": "ForSequenceClassification", "sparse": "ForMaskedLM"}  # as config.json says
MAX_THREADS = 4  # of one encoder; beyond that more encoders scale better than more threads


def resolve_device(wanted: str) -> str:
    """cpu or cuda, without importing torch; `auto`: cuda where driver and torch build allow it."""
    if wanted != "auto":
        return wanted
    return (
        "cuda"
        if count_gpus() and not importlib.metadata.version("torch").endswith("+cpu")
        else "cpu"
    )


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, as its driver lists them; no library is loaded."""
    listed = Path("/proc/driver/nvidia/gpus")
    return len(list(listed.iterdir())) if listed.is_dir() else 0


def resolve_settings(
    spec: Spec,
    device: str,
    columns: tuple[VectorColumn, ...],
    max_tokens: int = 512,
    width: int = 768,
) -> Settings:
    """The settings of a first run; a later one inherits precision and unit cut."""
    precision = spec.model.precision
    if precision == "auto":
        precision = "fast" if device == "cuda" else "exact"
    unit_rows = UNIT_ROWS[device] if spec.run.unit_rows == "auto" else spec.run.unit_rows
    pack_tokens = spec.run.pack_tokens
    return Settings(
        precision=precision,
        device=device,
        threads=min(MAX_THREADS, len(os.sched_getaffinity(0))),
        pack_tokens=_pack_tokens(device, width) if pack_tokens == "auto" else pack_tokens,
        unit_rows=min(unit_rows, most_rows(spec, columns, max_tokens)),
    )


def most_rows(spec: Spec, columns: tuple[VectorColumn, ...], max_tokens: int) -> int:
    """Rows of a unit beyond which its part would be too large."""
    row_bytes = 64 + sum(_bytes(column, max_tokens) for column in columns)
    row_bytes *= WINDOWS_OF_A_ROW if spec.model.long_text == "window" else 1
    return max(1, MAX_PART_BYTES // row_bytes)


def _pack_tokens(device: str, width: int) -> int:
    """A power of two, since a GPU's packs are filled up to one; 16384 for BERT."""
    if device == "cpu":
        return PACK_TOKENS[device]
    return min(PACK_TOKENS[device], 1 << (STATE_VALUES // width).bit_length() - 1)


def resolve_model(spec: Spec, model: ModelFolder) -> dict[str, Any]:
    """What workers need to know of the model, and the prompt as it is put before text A."""
    max_tokens = model.max_tokens if spec.model.max_tokens == "auto" else spec.model.max_tokens
    if max_tokens > model.positions:
        what = f"model.max_tokens: {max_tokens} is above its {model.positions} positions"
        raise ModelError("MAX_TOKENS", model.name, what, "leave model.max_tokens at auto")
    prompt = spec.input.prompt
    prompt = model.document_prompt if prompt in (None, "auto") else model.prompt(prompt)
    if prompt and not model.include_prompt:
        what = "its pooling leaves the prompt's tokens out (include_prompt: false)"
        do = 'set input.prompt: "" to encode without a prompt, or choose another model'
        raise ModelError("MODEL_UNSUPPORTED", str(model.root), what, do)
    return {
        "name": model.name,
        "revision": model.revision,
        "folder": str(model.folder),
        "digest": model.digest,
        "max_tokens": max_tokens,
        "vocabulary": model.config["vocab_size"],
        "types": model.types,
        "prompt": prompt,
    }


def resolve_columns(spec: Spec, model: ModelFolder) -> tuple[VectorColumn, ...]:
    """The vector columns, with the model's own pooling and normalization for auto."""
    return tuple(_column(column, model) for column in spec.output.columns)


def _column(column: Column, model: ModelFolder) -> VectorColumn:
    if column.source in HEADS:
        return _head(column, model)
    pooling = column.pooling
    if pooling == "tokens":
        refuse_projection(model.folder, model.config)
    if pooling == "auto":
        if model.pooling is None:
            raise ModelError(
                "POOLING_UNKNOWN",
                str(model.folder),
                "does not say how to pool, or says one that we do not have",
                f"set pooling of output column {column.name!r}",
            )
        pooling = model.pooling
    if column.source == "input":
        pooling = pooling.removesuffix(DENSE_MARK)  # the layers after it are for the last states
    full = model.dim * len(pooling.split("+"))
    if pooling.endswith(DENSE_MARK):
        full = model.dense_dim
    dim = full if column.dim == "full" else column.dim
    if dim > full:
        raise SpecError("DIM", "", f"output.columns: dim {dim} is above the {full} of {model.name}")
    if column.dtype == "binary" and dim % 8:
        what = f"output.columns: dtype: binary packs 8 values a byte; dim {dim} does not fit"
        raise SpecError("DIM", "", what)
    normalize = model.normalize if column.normalize == "auto" else column.normalize
    return VectorColumn(column.name, column.source, pooling, normalize, column.dtype, dim, full)


def _head(column: Column, model: ModelFolder) -> VectorColumn:
    """A column of scores or sparse: as wide as the head, with the model's activation."""
    architectures = model.config.get("architectures") or ["none"]
    if not str(architectures[0]).endswith(HEADS[column.source]):
        raise ModelError(
            "HEAD_MISSING",
            str(model.folder),
            f"is {architectures[0]}, column {column.name!r} needs a *{HEADS[column.source]}",
            f"source: {column.source} is for such models",
        )
    dim = count_labels(model) if column.source == "scores" else model.config["vocab_size"]
    activation = activation_of(model, column.source)
    return VectorColumn(column.name, column.source, activation, False, column.dtype, dim, dim)


def _bytes(column: VectorColumn, max_tokens: int) -> int:
    """What a value of the column may take in a part."""
    sizes = {"tokens": 4 * column.dim * max_tokens, "sparse": 8 * SPARSE_ENTRIES}
    return sizes.get(column.kind, 4 * column.dim)


def identity(
    spec: Spec, model: dict[str, Any], columns: tuple[VectorColumn, ...], precision: str
) -> dict[str, Any]:
    """All that makes two encodings different, and nothing else. Its hash is the fingerprint."""
    return {
        "model": model["digest"],
        "prompt": model["prompt"],
        "text": spec.input.text,
        "pair": spec.input.pair,
        "special_tokens_in_text": spec.model.special_tokens_in_text,
        "max_tokens": model["max_tokens"],
        "truncation": spec.model.truncation,
        "long_text": spec.model.long_text,
        "stride": spec.model.stride,
        "precision": precision,
        "columns": [[c.source, c.pooling, c.normalize, c.dtype, c.dim] for c in columns],
        "numerics": NUMERICS,
    }
