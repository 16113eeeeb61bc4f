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
import torch
from safetensors.torch import save_file

from embedmill.jobs.dataset import dataset
from embedmill.jobs.run import run
from embedmill.pipeline.batches import Pack
from embedmill.pipeline.contracts import Loaded
from embedmill.pipeline.encode.load import load_encoder, load_heads, load_tail
from embedmill.pipeline.encode.proof import isa
from embedmill.pipeline.encode.weights import read_weights
from embedmill.pipeline.pack import sort_by_length
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.pipeline.vectors.pool import pool, pooled
from embedmill.schemas.plan import VectorColumn
from embedmill.schemas.spec import Spec
from tests.conftest import WORDS
from tests.tiny import save_model, write_json

DICTIONARY = Path(__file__).resolve().parents[2] / "jobs" / "specs" / "data" / "dictionary.parquet"


@pytest.mark.parametrize(("precision", "farthest"), [("exact", 0.0), ("fast", 0.02), ("int8", 0.3)])
def test_pack_mates_do_not_matter(minilm: Path, precision: str, farthest: float) -> None:
    """20 texts, alone and among 10 random sets of mates, also with equal lengths."""
    texts = pq.read_table(DICTIONARY)["text"].to_pylist()
    vectors = _encoder(minilm, precision)
    farthest = 0.0 if isa(read_weights(minilm), precision) else farthest
    chance = random.Random(0)
    probes = chance.sample(texts, 20)
    alone = np.concatenate([vectors([text]) for text in probes])
    for _ in range(10):
        mates = chance.sample(texts, chance.randrange(1, 60))
        among = vectors([*probes, *mates])[: len(probes)]

        assert np.abs(among - alone).max() <= farthest
        assert np.array_equal(among, vectors([*probes, *mates])[: len(probes)])  # the same pack


CASES = [
    ("bert", "AutoModel", {"pooling": "pooler"}),
    ("bert", "AutoModel", {"pooling": "mean>dense"}),
    ("bert", "AutoModelForSequenceClassification", {"source": "scores", "pooling": "identity"}),
    ("bert", "AutoModelForMaskedLM", {"source": "sparse", "pooling": "log1p_relu"}),
    ("mpnet", "AutoModel", {"pooling": "mean"}),
    ("ernie", "AutoModel", {"pooling": "mean"}),
    ("ernie", "AutoModel", {"pooling": "pooler"}),
    ("ernie", "AutoModelForSequenceClassification", {"source": "scores", "pooling": "identity"}),
    ("ernie", "AutoModelForMaskedLM", {"source": "sparse", "pooling": "log1p_relu"}),
    ("modernbert", "AutoModel", {"pooling": "cls"}),
]


@pytest.mark.parametrize(("kind", "auto", "fields"), CASES, ids=str)
def test_nor_do_they_with_other_models_and_outputs(
    tmp_path: Path, kind: str, auto: str, fields: dict[str, str]
) -> None:
    """Single words too: a pack of few tokens is where products take other kernels."""
    save_model(tmp_path, kind, auto, hidden_size=96, intermediate_size=192)
    tokenizer = Tokenizer(tmp_path, max_tokens=99, truncation="longest_first", parse_specials=False)
    encoder = load_encoder(tmp_path, device="cpu", precision="exact", threads=1)
    column = VectorColumn(**{"name": "v", "source": "encoder", "normalize": False,
                             "dtype": "float32", "dim": 96, "full_dim": 96} | fields)  # fmt: skip
    heads = load_heads(tmp_path, {column.source}, device="cpu", precision="exact")
    loaded = Loaded(encoder, lambda: loaded, heads, _dense(tmp_path / "2_Dense", 96))

    def values(texts: list[str]) -> np.ndarray:
        sequences, place_S = sort_by_length(tokenizer.encode(texts, None))
        packed = Pack(sequences.ids_T, sequences.cu_S1, sequences.second_S)
        return pooled(encoder.encode(packed), packed.cu_S1, column, loaded).numpy()[place_S]

    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=k)) for k in [1, 1, 2, 3, 5, 8, 20, 50] * 8]
    alone = np.concatenate([values([text]) for text in texts[:12]])
    for _ in range(10):
        mates = chance.sample(texts, chance.randrange(1, 40))
        assert np.array_equal(alone, values([*texts[:12], *mates])[:12])


def _dense(folder: Path, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A dense layer of a sentence-transformers folder."""
    config = {"in_features": width, "out_features": 40, "activation_function": "torch.nn.Tanh"}
    write_json(folder / "config.json", config)
    random_NK = torch.randn(40, width, generator=torch.Generator().manual_seed(3))
    save_file(
        {"linear.weight": random_NK, "linear.bias": random_NK[:, 0].contiguous()},
        folder / "model.safetensors",
    )
    return load_tail([folder], "cpu")


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
