"""docs/build_corpus.py, on an index of four packages."""

from __future__ import annotations

import bz2
import lzma
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = """\
Package: lemon
Section: games
Description: sour

Package: honey
Section: science

Package: hollow
Section: games
"""
TRANSLATION = """\
Package: lemon
Description-md5: 0
Description-en: sour yellow game
 Lemons fall from
 trees.
 .
 It has:
  * a tree
  * a sky
 .
 Und Köche.

Package: honey
Description-en: sweet thing
 Made by bees.

Package: hollow
Description-en: only a title

Package: stranger
Description-en: in no index
 Text.
"""


def test_an_index_becomes_a_corpus(tmp_path):
    packages, translation = tmp_path / "Packages.xz", tmp_path / "Translation-en.bz2"
    packages.write_bytes(lzma.compress(PACKAGES.encode()))
    translation.write_bytes(bz2.compress(TRANSLATION.encode()))
    script = ROOT / "docs" / "build_corpus.py"
    command = [sys.executable, script, packages, translation, tmp_path / "en", "--shards", "2"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("2 passages in 2 shards")
    tables = [pq.read_table(path) for path in sorted((tmp_path / "en").iterdir())]
    assert [table.num_rows for table in tables] == [1, 1]
    found = {row["id"]: row for row in pa.concat_tables(tables).to_pylist()}
    assert found["honey"] == {
        "id": "honey",
        "title": "sweet thing",
        "text": "Made by bees.",
        "section": "science",
    }
    text = "Lemons fall from trees.\nIt has:\n* a tree\n* a sky\nUnd Köche."
    assert found["lemon"]["text"] == text
