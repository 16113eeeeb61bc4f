"""PostgreSQL with pgvector: searchers read a view, which changes its table at one instant.

    TABLE                        the view: id, kept columns, the vector, embedmill_key
    embedmill_HASH_a, _b         the tables that it may stand for
    embedmill_sinks              which table, and what is in it

A load beside copies batch by batch into the table that the view does not show, and makes its index
last. Changes of what the view shows are one transaction. One process at a time loads a view: an
advisory lock, which a process that dies lets go of.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Any, TypeVar

import asyncpg
import numpy as np
import pyarrow as pa

from embedmill.pipeline.identity import digest
from embedmill.pipeline.index.filters import Condition
from embedmill.pipeline.index.pgvector import statements as words
from embedmill.pipeline.index.pgvector.binary_copy import (
    HEADER,
    TRAILER,
    columns_of,
    copy_rows,
    storable,
)
from embedmill.pipeline.index.records import ahead, gather
from embedmill.pipeline.index.sink import KEY, Fetched, Hit, Loaded, Shape
from embedmill.pipeline.index.values import plain
from embedmill.schemas.errors import ConflictError, StorageError, TryAgain

BATCH_ROWS, BATCH_BYTES = 8192, 16 << 20  # of one COPY, which is there whole or not at all
PIECE = 1 << 20  # bytes given to the socket at once
KEYS_AT_ONCE = 50_000
WAIT = "60s"  # for another process that loads, or for a search that holds the view
LISTED = 22  # bytes of a key in a binary COPY: fields, length, key
T = TypeVar("T")


class PgvectorSink:
    """A view in PostgreSQL; see Sink."""

    def __init__(self, url: str | None, table: str, shape: Shape) -> None:
        """`url`: without a password; what it lacks, PGHOST, PGPASSWORD and their like say."""
        self.shape, self.warnings = shape, []
        self.columns = columns_of(shape)
        words.refuse(shape, table)
        self.table, self._target = table, table
        self._stem = f"embedmill_{digest(table)[:10]}_"
        self._open: Any = None  # the transaction of changes
        self._replaced = 0
        self._loop = asyncio.Runner()
        self._db = self._run(asyncpg.connect(url, timeout=30, server_settings=words.SETTINGS))
        self._schema = self._value("SELECT current_schema()")

    def loaded(self) -> Loaded | None:
        facts = self._facts()
        if facts is None and self._oid(self.table):
            what, do = "is there and is no sink of ours", "choose another table"
            raise ConflictError("SINK_TAKEN", self.table, what, do)
        if facts is None or None in (self._oid(self.table), self._oid(facts["physical"])):
            return None  # somebody has dropped it: it is made anew
        return Loaded.from_json(json.loads(facts["facts"]))

    def begin(self, beside: bool, snapshot: str) -> None:
        self._lock()
        self._rollback()
        facts = self._facts()
        shown = facts and facts["physical"]
        if not beside:
            self._target = shown
            self._open = self._db.transaction()
            self._run(self._open.start())
            return
        stem = f"{self._stem}{self.shape.digest[:12]}_"
        self._target = stem + ("b" if shown == f"{stem}a" else "a")
        self._drop_tables(but=(shown, self._target))
        self._do(words.EXTENSION)
        self._do(words.STATE.format(self._name(words.SINKS)))
        self._do(words.create(self._name(self._target), self.columns))

    def keys(self) -> Iterator[np.ndarray]:
        query = f"SELECT {KEY} FROM {self._name(self._target)}"
        with tempfile.TemporaryFile() as file:
            self._run(self._db.copy_from_query(query, output=file, format="binary"))
            file.seek(len(HEADER))
            while len(data := file.read(LISTED << 16)) >= LISTED:
                rows = len(data) // LISTED
                yield np.frombuffer(data, np.uint8)[: rows * LISTED].reshape(rows, -1)[:, 6:].copy()

    def change(self, gone: np.ndarray, come: Iterator[pa.RecordBatch]) -> None:
        name = self._name(self._target)
        for first in range(0, len(gone), KEYS_AT_ONCE):
            some = _uuids(gone[first : first + KEYS_AT_ONCE])
            self._do(f"DELETE FROM {name} WHERE {KEY} = ANY($1::uuid[])", some)
        for rows in ahead(self._encoded(come)):
            self._run(
                self._db.copy_to_table(
                    self._target,
                    schema_name=self._schema,
                    columns=[column.name for column in self.columns],
                    source=_stream(rows),
                    format="binary",
                )
            )
        if self._replaced:
            said = (
                f"{self._replaced} values held a NUL, which PostgreSQL cannot: U+FFFD stands there"
            )
            self.warnings.append(said)

    def build(self) -> None:
        if self._open is not None:
            return  # the indexes were kept up to date
        name, rows = self._name(self._target), self.count()
        for statement in words.index(self._target, name, self.shape, rows):
            self._do(statement)
        self._do(f"VACUUM (ANALYZE) {name}")  # that keys can be listed from their index alone

    def count(self) -> int:
        return self._value(f"SELECT count(*) FROM {self._name(self._target)}")

    def fetch(self, keys: np.ndarray) -> dict[bytes, Fetched]:
        names = [field.name for field in self.shape.carried]
        vector = words.quoted(self.shape.schema.names[-1])
        query = (
            f"SELECT {KEY}, {vector}::text{''.join(', ' + words.quoted(n) for n in names)} "
            f"FROM {self._name(self._target)} WHERE {KEY} = ANY($1::uuid[])"
        )
        found = {}
        for key, text, *values in self._rows(query, _uuids(keys)):
            kept = dict(zip(names, self._plain(names, values), strict=True))
            found[key.bytes] = kept, words.vector_of(text)
        return found

    def nearest(
        self, query_D: np.ndarray, k: int, where: Sequence[Condition], columns: Sequence[str]
    ) -> list[Hit]:
        for setting in words.search_settings(self.shape, k, bool(where)):
            self._do(setting)
        query, values = words.nearest(
            self._name(self._target), self.shape, self.columns, query_D, k, where, columns
        )
        return [
            Hit(key.bytes, score, dict(zip(columns, self._plain(columns, found), strict=True)))
            for key, score, *found in self._rows(query, *values)
        ]

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return storable(batch)[0]

    def publish(self, loaded: Loaded) -> None:
        facts = json.dumps(loaded.to_json())
        if self._open is None:
            self._open = self._db.transaction()
            self._run(self._open.start())
            self._show()
        self._do(words.UPSERT.format(self._name(words.SINKS)), self.table, self._target, facts)
        self._run(self._open.commit())
        self._open = None
        with contextlib.suppress(TryAgain):  # somebody still reads it: the next load removes it
            self._drop_tables(but=(self._target,))

    def refuse(self) -> None:
        self._rollback()

    def close(self) -> None:
        try:
            self._rollback()
            self._run(self._db.close())
        except StorageError:
            self._db.terminate()
        finally:
            self._loop.close()

    def _show(self) -> None:
        """Points the view to the table; it is made anew where its columns changed."""
        view, names = self._name(self.table), [c.name for c in self.columns]
        chosen = ", ".join(words.quoted(n) for n in [*names[1:], names[0]])
        select = f"AS SELECT {chosen} FROM {self._name(self._target)}"
        if self._value("SELECT to_regclass($1)", view) is not None:
            before = self._rows(words.COLUMNS_OF, view)
            now = self._rows(words.COLUMNS_OF, self._name(self._target))
            if [tuple(r) for r in before] != [*map(tuple, now[1:]), tuple(now[0])]:
                self._do(f"DROP VIEW {view}")
        self._do(f"CREATE OR REPLACE VIEW {view} {select}")

    def _encoded(self, come: Iterator[pa.RecordBatch]) -> Iterator[memoryview]:
        for table in gather(come, BATCH_ROWS, BATCH_BYTES):
            (batch,) = table.combine_chunks().to_batches()
            batch, replaced = storable(batch)
            self._replaced += replaced
            yield copy_rows(batch, self.columns)

    def _plain(self, names: Sequence[str], values: Sequence[Any]) -> list[Any]:
        known = {column.name: column.type for column in self.columns}
        return [
            json.loads(v) if known[n] == "jsonb" and v is not None else plain(v)
            for n, v in zip(names, values, strict=True)
        ]

    def _lock(self) -> None:
        query = "SELECT pg_advisory_lock(hashtextextended($1, 0))"
        try:
            self._value(query, f"embedmill {self._name(self.table)}")
        except TryAgain:
            what = "another process is loading it"
            raise TryAgain("SINK_BUSY", self.table, what, "try again later") from None

    def _facts(self) -> Any:
        if self._oid(words.SINKS) is None:
            return None
        query = f"SELECT physical, facts FROM {self._name(words.SINKS)} WHERE name = $1"
        return next(iter(self._rows(query, self.table)), None)

    def _drop_tables(self, but: tuple[str | None, ...]) -> None:
        """Removes tables that this view stood for, or was going to."""
        for (name,) in self._rows(words.TABLES, self._schema, self._stem):
            if name not in but:
                self._do(f"DROP TABLE {self._name(name)}")

    def _oid(self, name: str) -> int | None:
        """What stands for a table or a view in the catalogue; None if there is none."""
        return self._value("SELECT to_regclass($1)", self._name(name))

    def _name(self, name: str) -> str:
        return f"{words.quoted(self._schema)}.{words.quoted(name)}"

    def _rollback(self) -> None:
        if self._open is not None:
            transaction, self._open = self._open, None
            self._run(transaction.rollback())

    def _do(self, statement: str, *values: Any) -> None:
        self._run(self._db.execute(statement, *values))

    def _value(self, query: str, *values: Any) -> Any:
        return self._run(self._db.fetchval(query, *values))

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self._run(self._db.fetch(query, *values))

    def _run(self, what: Awaitable[T]) -> T:
        """Its result; what PostgreSQL says becomes one line."""

        async def wait() -> T:
            return await what

        try:
            return self._loop.run(wait())
        except asyncpg.LockNotAvailableError:
            what_, do = "a search or another process holds it for long", "try again later"
            raise TryAgain("SINK_BUSY", self.table, what_, do) from None
        except asyncpg.PostgresError as error:
            raise words.failure(self.table, error) from None
        except (OSError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            do = "check the url, or PGHOST and its like; the same command resumes"
            raise StorageError("SINK_AWAY", self.table, f"PostgreSQL: {said}", do) from None


async def _stream(rows: memoryview) -> AsyncIterator[bytes | memoryview]:
    yield HEADER
    for first in range(0, len(rows), PIECE):
        yield rows[first : first + PIECE]
    yield TRAILER


def _uuids(keys: np.ndarray) -> list[str]:
    return [key.tobytes().hex() for key in keys]
