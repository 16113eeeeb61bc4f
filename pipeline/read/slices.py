"""The rows of a unit as they lie in its shards: checked pages, few bytes at once, never a surprise.

A slice is read only from the version of its shard that was planned. Pages are checked by their
checksums, the number of rows by what the footer promised, and the bytes are counted while they
come, because a few hundred bytes of Parquet may unpack to terabytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedmill.pipeline.plan.shards import footer_digest, open_parquet, open_shard, version_now
from embedmill.schemas.errors import InputError
from embedmill.schemas.plan import Shard, Slice, Unit

MAX_BYTES = 1 << 30  # of all columns of a unit, unpacked
# Of a plain column so many values unpack at once, be each of them one large dictionary entry. A
# batch of a dictionary column unpacks nothing, but brings its whole dictionary.
BATCH_ROWS = 16
DICTIONARY_ROWS = 2048
READERS = 8  # shards of a bucket at once: a bomb in each may unpack to MAX_BYTES


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of a shard that follow each other; `rows` is None where they cannot be read."""

    shard: Shard
    first: int  # row in the shard
    count: int
    rows: pa.Table | None
    bytes: int = 0  # unpacked


def read_slices(unit: Unit, names: list[str], quarantine: bool) -> list[Stretch]:
    """The unit's rows in input order, only the named columns.

    A page that is damaged, or unpacks to too much, is an InputError; with `quarantine` the rows
    of its row group cannot be read, and all others can. That a file changed, is gone or may not
    be opened, or that a disk or a network fails, is an error always: it may be well tomorrow.
    """
    found: list[Stretch] = []
    for piece, stretches in zip(unit.slices, _each(unit, names, quarantine), strict=True):
        found += stretches
        if sum(stretch.bytes for stretch in found) > MAX_BYTES:
            raise _too_large(piece)
    return found


def _each(unit: Unit, names: list[str], quarantine: bool) -> Iterator[list[Stretch]]:
    """What each slice gives, in order; from a bucket, where reading is waiting, several at once."""
    read = functools.partial(_read_slice, names=names, quarantine=quarantine)
    if len(unit.slices) == 1 or "://" not in unit.slices[0].shard.uri:
        yield from map(read, unit.slices)
        return
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, unit.slices)


def _read_slice(piece: Slice, names: list[str], quarantine: bool) -> list[Stretch]:
    uri = piece.shard.uri
    try:
        _refuse_changed(piece.shard)
        with open_shard(uri) as source:
            if footer_digest(source, uri, piece.shard.size) != piece.shard.footer:
                raise _changed(uri)
            found = _stretches(source, piece, names, quarantine)
        _refuse_changed(piece.shard)
        return found
    except FileNotFoundError:
        raise InputError(
            "INPUT_GONE", uri, "was planned but is gone", "run again: it plans anew"
        ) from None
    except (pa.ArrowException, OSError) as error:
        if version_now(uri) != (piece.shard.size, piece.shard.version):
            raise _changed(uri) from None  # it was overwritten while it was read
        what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        do = "mend the file, take it out of input.path, or set input.on_bad_file: quarantine"
        raise InputError("UNREADABLE", uri, f"cannot be read ({what})", do) from None


def _stretches(
    source: pa.NativeFile, piece: Slice, names: list[str], quarantine: bool
) -> list[Stretch]:
    file = open_parquet(source)
    spans = list(_groups(file, piece))
    try:
        return [_stretch(file, piece, names, spans)]
    except (pa.ArrowException, OSError, InputError) as error:
        if not quarantine or not _is_damage(error):
            raise
    return [_stretch_or_none(file, piece, names, span) for span in spans]


def _stretch_or_none(
    file: pq.ParquetFile, piece: Slice, names: list[str], span: tuple[int, int, int]
) -> Stretch:
    try:
        return _stretch(file, piece, names, [span])
    except (pa.ArrowException, OSError, InputError) as error:
        if not _is_damage(error):
            raise
    _, first, rows = span
    begin, end = max(first, piece.start), min(first + rows, piece.start + piece.rows)
    return Stretch(piece.shard, begin, end - begin, None)


def _is_damage(error: Exception) -> bool:
    """Whether the bytes are bad, and not what brings them: a disk, a network, the memory."""
    if isinstance(error, OSError):
        return type(error) is OSError and error.errno is None  # as Parquet's own errors come
    if isinstance(error, InputError):
        return error.code != "INPUT_CHANGED"
    return not isinstance(error, MemoryError)


def _groups(file: pq.ParquetFile, piece: Slice) -> Iterator[tuple[int, int, int]]:
    """(number, first row, rows) of the row groups that have rows of the slice."""
    first = 0
    for number in range(file.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if first < piece.start + piece.rows and first + rows > piece.start:
            yield number, first, rows
        first += rows


def _stretch(
    file: pq.ParquetFile, piece: Slice, names: list[str], spans: list[tuple[int, int, int]]
) -> Stretch:
    """The rows of the slice in some of its row groups, which follow each other."""
    first = row = spans[0][1] if spans else piece.start
    begin = max(first, piece.start)
    end = min(first + sum(rows for _, _, rows in spans), piece.start + piece.rows)
    kinds = [file.schema_arrow.field(name).type for name in names]
    most = DICTIONARY_ROWS if any(map(pa.types.is_dictionary, kinds)) else BATCH_ROWS
    batches, size = [], 0
    for batch in file.iter_batches(most, [number for number, _, _ in spans], names):
        skip, stop = max(0, begin - row), min(len(batch), end - row)
        if stop > skip:
            batches.append(batch.slice(skip, stop - skip))
            size += sum(map(_unpacked, batches[-1].columns))
        if size > MAX_BYTES:
            raise _too_large(piece)
        row += len(batch)
        if row >= end:
            break
    if row < end:
        raise pa.ArrowInvalid(
            f"its footer promises {end - first} rows, its pages have {row - first}"
        )
    schema = batches[0].schema if batches else pa.schema(map(file.schema_arrow.field, names))
    return Stretch(piece.shard, begin, end - begin, pa.Table.from_batches(batches, schema), size)


def _unpacked(column: pa.Array) -> int:
    """Bytes of a column once no value is shared."""
    if not pa.types.is_dictionary(column.type):
        return column.nbytes
    words = column.dictionary
    try:
        lengths = np.nan_to_num(pc.binary_length(words).to_numpy(zero_copy_only=False))
    except pa.ArrowNotImplementedError:  # no strings: all values are of one width
        return len(column) * words.nbytes // max(len(words), 1)
    used = np.bincount(column.indices.drop_null(), minlength=len(words))
    return int(used @ lengths) + column.indices.nbytes


def _refuse_changed(shard: Shard) -> None:
    if version_now(shard.uri) != (shard.size, shard.version):
        raise _changed(shard.uri)


def _changed(uri: str) -> InputError:
    return InputError(
        "INPUT_CHANGED", uri, "changed since it was planned", "run again: it plans anew"
    )


def _too_large(piece: Slice) -> InputError:
    return InputError(
        "UNIT_TOO_LARGE",
        piece.shard.uri,
        f"rows {piece.start} to {piece.start + piece.rows - 1} are more than {MAX_BYTES >> 20} MiB "
        "once unpacked",
        "take it out of input.path if it is a bomb; else set a lower run.unit_rows",
    )
