"""In exact mode a row's vector is the same to the last bit whatever shares its pack or its unit.

So it is in every precision where the layers are in C. Where torch has them, fast mode promises it
for equal packs only, which the plan fixes; other mates move a vector by less than bf16 itself does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.dataset import dataset
from jobs.run import run
from pipeline.batches import Pack
from pipeline.encode.load import load_encoder
from pipeline.encode.proof import works
from pipeline.pack import sort_by_length
from pipeline.pool import pool
from pipeline.tokens import Tokenizer
from schemas.spec import Spec

DICTIONARY = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "data" / "dictionary.parquet"


@pytest.mark.parametrize(("precision", "farthest"), [("exact", 0.0), ("fast", 0.02), ("int8", 0.3)])
def test_pack_mates_do_not_matter(minilm: Path, precision: str, farthest: float) -> None:
    """20 texts, alone and among 10 random sets of mates, also with equal lengths."""
    texts = pq.read_table(DICTIONARY)["text"].to_pylist()
    vectors, farthest = _encoder(minilm, precision), 0.0 if works(precision) else farthest
    chance = random.Random(0)
    probes = chance.sample(texts, 20)
    alone = np.concatenate([vectors([text]) for text in probes])
    for _ in range(10):
        mates = chance.sample(texts, chance.randrange(1, 60))
        among = vectors([*probes, *mates])[: len(probes)]

        assert np.abs(among - alone).max() <= farthest
        assert np.array_equal(among, vectors([*probes, *mates])[: len(probes)])  # the same pack


def _encoder(folder: Path, precision: str) -> Callable[[list[str]], np.ndarray]:
    """Texts -> mean vectors of one pack (S, D), in the texts' order."""
    tokenizer = Tokenizer(folder, max_tokens=256, truncation="longest_first", parse_specials=False)
    encoder = load_encoder(folder, device="cpu", precision=precision, threads=2)

    def vectors(texts: list[str]) -> np.ndarray:
        sequences, place_S = sort_by_length(tokenizer.encode(texts, None))
        packed = Pack(sequences.ids_T, sequences.cu_S1, sequences.second_S)
        hidden_TD = encoder.encode(packed).hidden_TD
        return pool(hidden_TD, packed.cu_S1, "mean", encoder.pooler).numpy()[place_S]

    return vectors


def test_unit_sizes_do_not_matter(
    tiny_bert: Path, tmp_path: Path, write_texts: Callable[..., Path]
) -> None:
    """The same rows in units of 7, 40 and 300: equal bits for every id."""
    words = "lemon river stone honey bread cloud yellow sour fruit deep water".split()
    texts = [" ".join(words[i % 11 : i % 11 + 1 + i % 7]) + f" {i % 90}" for i in range(300)]
    shard = write_texts(tmp_path / "in" / "a.parquet", id=list(range(300)), text=texts)
    found = []
    for rows in (7, 40, 300):
        output = str(tmp_path / f"out{rows}")
        spec = {
            "input": {"path": str(shard), "text": "text", "id": "id"},
            "model": {"name": str(tiny_bert), "precision": "exact"},
            "output": {"path": output},
            "run": {"runner": "inline", "unit_rows": rows},
        }
        run(Spec.model_validate(spec))
        table = dataset(output).to_table().sort_by("id")
        found.append(table["vector"].combine_chunks().flatten().to_numpy().tobytes())

    assert found[0] == found[1] == found[2]
