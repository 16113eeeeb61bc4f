"""Builds a corpus of real passages from a Debian package index. docs/corpus.md says how."""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

OPENERS = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "title", "text", "section")])
SEED, ROW_GROUP = 7, 2_000


def open_index(path: Path) -> IO[str]:
    """An index file as text, whatever it is packed with."""
    return OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8")


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The records of an index; lines that go on keep their leading space."""
    record: dict[str, str] = {}
    field = ""
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            if record:
                yield record
            record = {}
        elif line[0].isspace():
            record[field] += "\n" + line
        else:
            field, _, value = line.partition(":")
            record[field] = value.strip()
    if record:
        yield record


def passage(description: str) -> tuple[str, str]:
    """Title and text: wrapped lines joined, paragraphs and list items on lines of their own."""
    title, *lines = description.split("\n")
    parts: list[str] = []
    glued = False  # whether the next wrapped line goes on with the last part
    for line in lines:
        if line.strip() == ".":
            glued = False
        elif line.startswith("  ") or not glued:
            parts.append(line.strip())
            glued = not line.startswith("  ")
        else:
            parts[-1] += " " + line.strip()
    return title, "\n".join(parts)


def rows(packages: Path, translation: Path) -> list[dict[str, str]]:
    """One row a package that has a description, in the order of its name."""
    with open_index(packages) as file:
        sections = {one["Package"]: one.get("Section", "") for one in stanzas(file)}
    found: dict[str, dict[str, str]] = {}
    with open_index(translation) as file:
        for one in stanzas(file):
            name = one["Package"]
            title, text = passage(one.get("Description-en", ""))
            if text and name in sections:
                section = sections[name]
                found[name] = {"id": name, "title": title, "text": text, "section": section}
    return [found[name] for name in sorted(found)]


def write(found: list[dict[str, str]], out: Path, shards: int) -> None:
    """Shuffles the rows, always alike, and writes them as `shards` Parquet files."""
    random.Random(SEED).shuffle(found)
    out.mkdir(parents=True, exist_ok=True)
    for n in range(shards):
        pq.write_table(
            pa.Table.from_pylist(found[n::shards], SCHEMA),
            out / f"part-{n:05d}.parquet",
            row_group_size=ROW_GROUP,
            compression="zstd",
            write_page_checksum=True,
        )


def main() -> None:
    """Reads the two index files and writes the shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, help="Packages, .xz or .gz as the mirror has it")
    parser.add_argument("translation", type=Path, help="Translation-en, .bz2 or .xz")
    parser.add_argument("out", type=Path, help="a folder for the shards")
    parser.add_argument("--shards", type=int, default=8)
    chosen = parser.parse_args()
    found = rows(chosen.packages, chosen.translation)
    write(found, chosen.out, chosen.shards)
    print(f"{len(found):,} passages in {chosen.shards} shards in {chosen.out}")


if __name__ == "__main__":
    main()
