"""One part of a snapshot against what its manifest's table says of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedmill.jobs.verify.values import bad_values
from embedmill.pipeline.identity import unit_key
from embedmill.pipeline.parts.footer import read_footer
from embedmill.pipeline.parts.table import count_inputs
from embedmill.pipeline.store.output import Store
from embedmill.schemas.columns import REJECTS, Status
from embedmill.schemas.manifest import COUNTS, PartRecord, part_name
from embedmill.schemas.plan import VectorColumn
from embedmill.schemas.spec import WINDOW_COLUMNS

BATCH_ROWS, FEW_ROWS = 2048, 16
BATCH_BYTES = 64 << 20  # of all columns of a batch, about: values may be huge
TOLD = ["input_hash", "n_tokens"]  # columns that give the counts
RESTORE = "restore it from a copy, or delete it and run again"
CODES = {status.name for status in Status if status}


@dataclass(frozen=True, slots=True)
class Expected:
    """What all parts of a snapshot have in common."""

    fingerprint: str
    layout: str
    generation: int
    columns: tuple[VectorColumn, ...]
    schema: pa.Schema | None  # None: the plan is unreadable
    max_tokens: int | None
    long_text: str
    stride: int


def check_part(store: Store, record: PartRecord, expected: Expected) -> Iterator[str]:
    """The problems of one part and of its rejects, one line each."""
    where = store.where(record.path)
    yield from (f"{where}: {what}; {RESTORE}" for what in _entry(record, expected))
    yield from _rejects(store, record)
    size = store.size(record.path)
    if size is None:
        yield f"{where}: is gone; run again, which makes it anew"
        return
    if size != record.bytes:
        yield f"{where}: has {size} bytes, {record.bytes} were committed; {RESTORE}"
    elif store.sha256(record.path) != record.sha256:
        yield f"{where}: its sha256 is not the committed one; {RESTORE}"
    try:
        with store.open(record.path) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=False)
            found = [*_footer(file, record, expected), *_rows(file, record, expected)]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        found = [f"cannot be read ({what})"]
    yield from (f"{where}: {what}; {RESTORE}" for what in found)


def _entry(record: PartRecord, expected: Expected) -> Iterator[str]:
    """The table's row in itself."""
    if unit_key(record.slices, expected.fingerprint, expected.layout) != record.unit_key:
        yield "its unit key is not that of its slices"
    number = record.path.rpartition("-g")[2].partition(".")[0]
    generation = int(number) if number.isdigit() else 0
    named = part_name(expected.fingerprint, record.unit_key, generation)
    if named != record.path or not 1 <= generation <= expected.generation:
        yield "its name is not that of its unit"
    rows = sum(piece.rows for piece in record.slices)
    rejected = sum(record.rejects.values())
    if not rows == record.rows_in == record.rows_out + rejected:
        yield (
            f"{rows} rows in its slices, {record.rows_in} rows in, {record.rows_out} out, "
            f"{rejected} rejected do not add up"
        )


def _footer(file: pq.ParquetFile, record: PartRecord, expected: Expected) -> Iterator[str]:
    """Schema, counts and footer of the opened file."""
    if expected.schema is not None and not file.schema_arrow.equals(expected.schema):
        yield "its schema is not that of the plan"
    if file.metadata.num_rows != record.vectors:
        yield f"has {file.metadata.num_rows} rows, {record.vectors} were committed"
    footer = read_footer(file.metadata)
    told = {
        "unit_key": record.unit_key,
        "fingerprint": expected.fingerprint,
        "counts": {name: getattr(record, name) for name in COUNTS},
        "rejects_path": record.rejects_path,
    }
    for key, value in told.items():
        if getattr(footer, key, None) != value:
            yield f"its footer has another {key} than the snapshot"


def _rows(file: pq.ParquetFile, record: PartRecord, expected: Expected) -> Iterator[str]:
    """Every page is read, checksums verified; a line for each kind of bad value."""
    bad: Counter[str] = Counter()
    cut = 0
    spans: list[np.ndarray] = []
    facts: list[pa.RecordBatch] = []
    told = [*TOLD, "window"] if expected.long_text == "window" else TOLD
    for batch in _batches(file):
        for column in expected.columns:
            bad.update(bad_values(batch, column))
        tokens = batch.column("n_tokens").to_numpy(zero_copy_only=False)
        most = expected.max_tokens or np.iinfo(np.int32).max
        if expected.long_text == "window_mean":  # the sum over a row's windows
            most = np.iinfo(np.int32).max
        elif expected.long_text == "window":
            spans.append(np.stack([batch.column(name).to_numpy() for name in WINDOW_COLUMNS]))
        bad["n_tokens that is out of range"] += int(((tokens < 1) | (tokens > most)).sum())
        chars = batch.column("n_chars_cut").to_numpy(zero_copy_only=False)
        bad["n_chars_cut below 0"] += int((chars < 0).sum())
        cut += int((chars > 0).sum())
        facts.append(batch.select(told))
        for name in (batch.schema.names[0], "input_hash"):
            bad[f"{name} that is null"] += batch.column(name).null_count
    if spans:
        yield from _windows(np.concatenate(spans, axis=1), record, expected.stride)
    for what, rows in bad.items():
        if rows:
            yield f"{rows} rows have {what}"
    if facts and not bad["input_hash that is null"]:
        yield from _counts(pa.Table.from_batches(facts), record, expected.long_text)
    if cut != record.rows_cut:
        yield f"{cut} rows say they were cut, {record.rows_cut} were committed"


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """All rows, each batch of few bytes: fewer rows where a row group's are large.

    Large on average, as token vectors are; or a few of them, as kept texts may be.
    """
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        most = BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)
        texts = [c.total_uncompressed_size for c in columns if c.physical_type == "BYTE_ARRAY"]
        if max(texts, default=0) > BATCH_BYTES:
            most = min(most, FEW_ROWS)
        yield from file.iter_batches(max(1, min(BATCH_ROWS, most)), row_groups=[number])


def _counts(rows: pa.Table, record: PartRecord, long_text: str) -> Iterator[str]:
    """Whether the rows give the counts that were committed."""
    for key, value in count_inputs(rows, long_text).items():
        if value != getattr(record, key):
            yield f"{key} is {value}, {getattr(record, key)} was committed"


def _windows(spans_3V: np.ndarray, record: PartRecord, stride: int) -> Iterator[str]:
    """Whether the windows of each row are in order and together are its text."""
    window_V, start_V, end_V = spans_3V
    first_V = window_V == 0
    if int(first_V.sum()) != record.rows_out:
        yield f"has {int(first_V.sum())} rows that begin, {record.rows_out} were committed"
    next_V = window_V == np.append(-1, window_V[:-1]) + 1
    apart_V = start_V > np.append(0, end_V[:-1])
    if stride == 0:
        apart_V |= start_V != np.append(0, end_V[:-1])
    wrong_V = np.where(first_V, start_V != 0, ~next_V | apart_V) | (end_V < start_V)
    if wrong_V.any():
        yield f"{int(wrong_V.sum())} windows do not continue the one before them"


def _rejects(store: Store, record: PartRecord) -> Iterator[str]:
    """The rejects that the part names: there, as many as counted, and of its unit."""
    count = sum(record.rejects.values())
    if not record.rejects_path:
        if count:
            yield f"{store.where(record.path)}: {count} rejects are in no file; {RESTORE}"
        return
    where = store.where(record.rejects_path)
    try:
        data = store.read(record.rejects_path)
        rows = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    except FileNotFoundError:
        yield f"{where}: is gone; run again, which makes it anew"
        return
    except (pa.ArrowException, OSError, ValueError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        yield f"{where}: cannot be read ({what}); {RESTORE}"
        return
    content = hashlib.sha256(data).hexdigest()[:16]
    if record.rejects_path.rpartition("-")[2] != f"{content}.arrow":
        yield f"{where}: is not what its name says; {RESTORE}"
    if not rows.schema.equals(REJECTS):
        yield f"{where}: has another schema; {RESTORE}"
        return
    codes = Counter(rows.column("code").to_pylist())
    if dict(codes) != record.rejects or not set(codes) <= CODES:
        yield f"{where}: has codes {dict(codes)}, {record.rejects} were committed; {RESTORE}"
    places = list(zip(*(rows.column(n).to_pylist() for n in ("shard", "row")), strict=True))
    spans = [(s.shard.uri, s.start, s.start + s.rows) for s in record.slices]
    outside = [p for p in places if not any(p[0] == u and a <= p[1] < b for u, a, b in spans)]
    if outside or len(set(places)) != len(places):
        yield f"{where}: names rows that are not its unit's, or one twice; {RESTORE}"
