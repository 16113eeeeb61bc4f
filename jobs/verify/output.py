"""Verify: whether an output is still what was committed, told from storage alone.

Every object is compared with what names it: manifests by the chain of their digests, the table
and the parts by the manifest, rejects by their part, rows by the shards' counts. Damage is a
finding and never an exception: each becomes one line that names the object and what to do.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa

from embedmill.jobs.verify.parts import Expected, check_part
from embedmill.jobs.verify.values import check_ranges
from embedmill.pipeline.identity import canonical, digest
from embedmill.pipeline.snapshot.read import (
    Snapshot,
    generation_of,
    open_units,
    read_plan,
    read_plan_head,
    required,
    table,
)
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.columns import part_schema
from embedmill.schemas.errors import EmbedmillError, ModelError, SpecError, StoreAway
from embedmill.schemas.manifest import (
    PART_TABLE,
    Manifest,
    PartRecord,
    manifest_name,
    part_name,
    record_from_row,
)
from embedmill.schemas.plan import Plan, VectorColumn

ATTEMPTS = 3  # a run that ends meanwhile removes what it replaced: look again at the new snapshot
SHOWN = 50  # problems in the text; JSON has them all
RESTORE = "restore it from a copy, or run into a new output.path"


def verify(output: str, *, sample: int = 0) -> dict[str, Any]:
    """Whether the newest snapshot is whole, and every problem; ConflictError if there is none.

    `sample`: so many rows, spread over the parts, are read and encoded again by the reference.
    """
    if sample < 0:
        raise SpecError("SAMPLE", "", f"verify: sample is {sample}; give 0 or a number of rows")
    store = open_store(output)
    for _ in range(ATTEMPTS):
        generation, result = _examine(store, sample)
        if result["ok"] or _newest_number(store) == generation:
            break
    return result


def verify_text(result: dict[str, Any]) -> str:
    """The findings for people: problems one a line, then a summary."""
    problems = result["problems"]
    lines = problems[:SHOWN]
    if len(problems) > SHOWN:
        lines.append(f"… and {len(problems) - SHOWN} more; --json has them all")
    words = "ok" if result["ok"] else f"NOT OK, {len(problems)} problems"
    rows, parts, rejects = (f"{result[key]:,} {key}" for key in ("rows", "parts", "rejects"))
    lines.append(f"{words}: {rows} in {parts}, {rejects}")
    if (sample := result["sample"]) and sample["n"]:
        worst = f"cosine {sample['min_cosine']:.6f} or more"
        worst += f", difference {sample['max_abs_diff']:.1e} at most"
        lines.append(f"sample of {sample['n']:,} rows against the reference: {worst}")
    return "\n".join(lines)


def _examine(store: Store, sample: int) -> tuple[int, dict[str, Any]]:
    """The generation looked at, and the result."""
    problems: list[str] = []
    generation, newest = _chain(store, problems)
    found = None
    if newest:
        manifest = newest.manifest
        records = _records(store, manifest, problems)
        plan = _plan(store, newest, records, problems)
        if records is not None:
            _check_totals(store, manifest, records, problems)
            problems += tiling(records)
            problems += check_ranges(store, plan)
            problems += _check_parts(store, manifest, plan, records)
            problems += _strays(store, manifest, records)
        if sample and records and plan:
            from embedmill.jobs.verify.sample import check_sample

            with noting(problems, store, "_embed/plan", RESTORE):
                found, more = check_sample(store, plan, records, sample)
                problems += more
    return generation, {
        "ok": not problems,
        "rows": newest.manifest.rows_out if newest else 0,
        "parts": newest.manifest.parts if newest else 0,
        "rejects": sum(newest.manifest.rejects.values()) if newest else 0,
        "problems": list(dict.fromkeys(problems)),
        "sample": found,
    }


@contextmanager
def noting(problems: list[str], store: Store, name: str, do: str) -> Iterator[None]:
    """Whatever damage raises inside becomes one line about the object."""
    try:
        yield
    except (StoreAway, ModelError):
        raise  # no damage, and no verdict either
    except EmbedmillError as error:
        own = error.do if error.do not in ("", "run verify") else do
        problems.append(" ".join(f"{error.where}: {error.what}; {own}".split()))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = (str(error).strip().splitlines() or [""])[0][:200]
        problems.append(f"{store.where(name)}: damaged ({type(error).__name__}: {what}); {do}")


def _newest_number(store: Store) -> int:
    """The number of the newest manifest, whatever is in it; 0 if there is none."""
    names = [name for name in store.list("_embed/manifest") if name.endswith(".json")]
    return max(map(generation_of, names), default=0)


def _chain(store: Store, problems: list[str]) -> tuple[int, Snapshot | None]:
    """Manifests 1 to the newest, each naming the digest of the one before; and the newest."""
    last = _newest_number(store)
    if last < 1:
        required(store)  # raises: nothing was ever committed
    before: str | None = ""
    newest = None
    for number in range(1, last + 1):
        name, newest, data = manifest_name(number), None, b""
        where = store.where(name)
        with noting(problems, store, name, RESTORE):
            data = store.read(name)
            manifest = Manifest.from_bytes(data, where)
            _check_types(manifest)
            if manifest.generation != number or manifest.to_bytes() != data:
                problems.append(f"{where}: was edited; {RESTORE}")
            if before is not None and manifest.previous != before:
                was = f"names another predecessor than {number - 1:06d}.json as it is"
                problems.append(f"{where}: {was}, one of both was changed; {RESTORE}")
            newest = Snapshot(manifest, hashlib.sha256(data).hexdigest())
        before = hashlib.sha256(data).hexdigest() if data else None
    return last, newest


def _check_types(manifest: Manifest) -> None:
    """ValueError for a field whose value is not of its type: JSON allows what was never written."""
    kinds = {"int": int, "str": str, "dict": dict, "list": list}
    for field in fields(manifest):
        value = getattr(manifest, field.name)
        if type(value) is not kinds[str(field.type).partition("[")[0]]:
            raise ValueError(f"{field.name} is {value!r}")
    if any(type(count) is not int for count in manifest.rejects.values()):
        raise ValueError(f"rejects is {manifest.rejects!r}")


def _records(store: Store, manifest: Manifest, problems: list[str]) -> list[PartRecord] | None:
    """The parts that the manifest's table names; None if it cannot be read."""
    name = f"_embed/manifest/{manifest.table}"
    with noting(problems, store, name, RESTORE):
        parts = table(store, manifest)
        if not parts.schema.equals(PART_TABLE):
            problems.append(f"{store.where(name)}: has another schema; {RESTORE}")
        return [record_from_row(row) for row in parts.to_pylist()]
    return None


def _plan(
    store: Store, newest: Snapshot, records: list[PartRecord] | None, problems: list[str]
) -> Plan | None:
    """The plan that the manifest fulfils, if it is what both say; None if it cannot be read."""
    manifest = newest.manifest
    where = store.where(f"_embed/plan/{manifest.plan}")
    plan = None
    with noting(problems, store, f"_embed/plan/{manifest.plan}", RESTORE):
        head = read_plan_head(store, manifest.plan)
        plan, units = read_plan(store, manifest.plan)
        named = {key: value for key, value in head.items() if key != "units"}
        stem = f"{plan.generation:06d}-{digest(named)[:16]}"
        if (f"{stem}.json", f"{stem}.arrow") != (manifest.plan, head["units"]):
            problems.append(f"{where}: was edited; {RESTORE}")
        told = {
            "generation": plan.generation,
            "previous": plan.base,
            "fingerprint": digest(plan.identity),
            "identity": plan.identity,
            "model": {key: plan.model[key] for key in ("name", "revision", "digest")},
            "columns": [asdict(column) for column in plan.columns],
        }
        for key, value in told.items():
            if canonical(getattr(manifest, key)) != canonical(value):
                name = store.where(manifest_name(manifest.generation))
                problems.append(f"{name}: its {key} is not that of its plan; {RESTORE}")
        if records is not None:
            planned = set(units.column("unit_key").to_pylist())
            new = {part_name(plan.fingerprint, key, plan.generation) for key in planned}
            paths = {record.path for record in records}
            if new - paths or digest(sorted(paths - new)) != head["carried"]:
                problems.append(f"{where}: its units and the snapshot's parts differ; {RESTORE}")
    return plan


def _check_totals(
    store: Store, manifest: Manifest, records: list[PartRecord], problems: list[str]
) -> None:
    """The manifest's sums are those of its table."""
    rejects: Counter[str] = Counter()
    for record in records:
        rejects.update(record.rejects)
    names = ("rows_in", "rows_out", "vectors", "rows_cut", "tokens")
    sums: dict[str, Any] = {key: sum(getattr(r, key) for r in records) for key in names}
    sums |= {"parts": len(records), "rejects": dict(sorted(rejects.items()))}
    where = store.where(manifest_name(manifest.generation))
    for key, value in sums.items():
        if getattr(manifest, key) != value:
            said = f"says {key} {getattr(manifest, key)}, its table {value}"
            problems.append(f"{where}: {said}; {RESTORE}")
    if manifest.rows_out + sum(manifest.rejects.values()) != manifest.rows_in:
        problems.append(f"{where}: rows_out and rejects do not add up to rows_in; {RESTORE}")


def tiling(records: list[PartRecord]) -> Iterator[str]:
    """A line for every shard whose rows are not each in exactly one part."""
    by_uri: dict[str, list[tuple[int, int, Any]]] = defaultdict(list)
    for record in records:
        for piece in record.slices:
            by_uri[piece.shard.uri].append((piece.start, piece.rows, piece.shard))
    for uri, pieces in sorted(by_uri.items()):
        shard = pieces[0][2]
        if any(other != shard for _, _, other in pieces):
            yield f"{uri}: is in the snapshot in two versions; run again, or {RESTORE}"
            continue
        at = 0
        for start, rows in sorted((start, rows) for start, rows, _ in pieces):
            if start > at:
                yield f"{uri}: rows {at} to {start - 1} are in no part of the snapshot; {RESTORE}"
            elif start < at and rows:
                high = min(at, start + rows) - 1
                yield f"{uri}: rows {start} to {high} are in two parts of the snapshot; {RESTORE}"
            at = max(at, start + rows)
        if at != shard.rows:
            yield f"{uri}: the snapshot has {at} of its {shard.rows} rows; {RESTORE}"


def _check_parts(
    store: Store, manifest: Manifest, plan: Plan | None, records: list[PartRecord]
) -> list[str]:
    """The problems of all parts."""
    problems: list[str] = []
    expected = None
    with noting(problems, store, f"_embed/plan/{manifest.plan}", RESTORE):
        expected = Expected(
            fingerprint=manifest.fingerprint,
            layout=manifest.layout,
            generation=manifest.generation,
            columns=tuple(VectorColumn(**column) for column in manifest.columns),
            schema=part_schema(plan) if plan else None,
            max_tokens=plan.model["max_tokens"] if plan else None,
            long_text=manifest.identity["long_text"],
            stride=manifest.identity["stride"],
        )
    for record in records if expected else ():
        with noting(problems, store, record.path, RESTORE):
            problems += check_part(store, record, expected)
    return problems


def _strays(store: Store, manifest: Manifest, records: list[PartRecord]) -> Iterator[str]:
    """A line for every object in data/ that no kept snapshot and no open plan names."""
    there = list(store.list("data"))
    problems: list[str] = []
    named = {record.path for record in records}
    for number in range(manifest.generation - 1, 0, -1):
        older = None
        with noting([], store, manifest_name(number), RESTORE):  # the chain has said it
            older = Manifest.from_bytes(store.read(manifest_name(number)), manifest_name(number))
        if older is None or store.size(f"_embed/manifest/{older.table}") is None:
            break  # gc took this one and all before it
        with noting(problems, store, f"_embed/manifest/{older.table}", "run gc"):
            named |= set(table(store, older).column("path").to_pylist())
    with noting(problems, store, "_embed/plan", "delete what is damaged there, and run again"):
        for _, plan, units in open_units(store, manifest.generation + 1):
            for key in units.column("unit_key").to_pylist():
                named.add(part_name(plan.fingerprint, key, plan.generation))
    yield from problems
    for name in there:
        if name not in named:
            yield f"{store.where(name)}: stray, no snapshot names it; run gc, or move it away"
