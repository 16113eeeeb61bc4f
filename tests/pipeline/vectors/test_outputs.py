"""Every kind of output column, through `run`, is what transformers and plain numpy give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
)

from embedmill.jobs.dataset import dataset
from embedmill.jobs.run import run
from embedmill.jobs.search.exact import search
from embedmill.jobs.verify.output import verify
from embedmill.pipeline.model.folder import open_model
from embedmill.pipeline.plan.resolve import resolve_columns
from embedmill.pipeline.vectors.pool import faults, pool
from embedmill.schemas.columns import vector_type
from embedmill.schemas.errors import ModelError, SpecError
from embedmill.schemas.plan import VectorColumn
from tests.pipeline.conftest import Job

WORDS = "lemon river stone honey bread cloud yellow sour fruit deep water north wind".split()
A = [" ".join(WORDS[(n * 5 + i) % 13] for i in range(1 + n % 7)) for n in range(30)]
B = [WORDS[n % 13] if n % 3 else "" for n in range(30)]
CLOSE = 1e-5


def folder_of(tiny_bert: Path, target: Path, kind: type, **changes) -> Path:
    """The tiny model's tokenizer with a random model of another kind."""
    shutil.copytree(tiny_bert, target)
    for name in ("modules.json", "1_Pooling", "model.safetensors"):
        path = target / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = BertConfig.from_pretrained(tiny_bert, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        kind(config).eval().save_pretrained(target)
    return target


def outputs(job: Job, columns: list[dict], **sections) -> pa.Table:
    """What a run with these columns stores, in input order."""
    job.shard("a.parquet", text=A, b=B, n=list(range(30)))
    sections = {"input": {"id": "n"}} | sections
    run(job.spec(output={"columns": columns}, **sections))
    return dataset(str(job.folder / "out")).to_table().sort_by("n")


@torch.inference_mode()
def states_of(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each text's layer-0 input and last hidden states by transformers, alone and unpadded."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    every = [
        model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        for text in A
    ]
    return [(states[0][0].numpy(), states[-1][0].numpy()) for states in every]


def normed(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def array(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table.column(name).to_pylist(), np.float32)


def test_many_columns_come_from_one_pass(job: Job, tiny_bert: Path) -> None:
    norm = {"normalize": True}
    got = outputs(
        job,
        [
            {"name": "plain"},
            {"name": "half", "dtype": "float16", **norm},
            {"name": "weighted", "pooling": "weighted_mean"},
            {"name": "short", "dim": 16, **norm},
            {"name": "bits", "dtype": "binary"},
            {"name": "codes", "dtype": "int8", **norm},
            {"name": "layer0", "source": "input", "pooling": "mean"},
            {"name": "tokens", "pooling": "tokens", **norm},
            {"name": "tokens16", "pooling": "tokens", "dtype": "float16", "dim": 8},
        ],
    )

    states = states_of(tiny_bert)
    mean = np.stack([hidden.mean(axis=0) for _, hidden in states])
    weights = [np.arange(1, len(hidden) + 1)[:, None] for _, hidden in states]
    weighted = [
        (w * hidden).sum(axis=0) / w.sum() for w, (_, hidden) in zip(weights, states, strict=True)
    ]
    assert np.abs(array(got, "plain") - mean).max() < CLOSE
    assert np.abs(array(got, "half") - normed(mean)).max() < 1e-3
    assert np.abs(array(got, "weighted") - np.stack(weighted)).max() < CLOSE
    assert np.abs(array(got, "short") - normed(mean[:, :16])).max() < CLOSE
    layer0 = np.stack([first.mean(axis=0) for first, _ in states])
    assert np.abs(array(got, "layer0") - layer0).max() < CLOSE
    bits = [np.frombuffer(value, np.uint8) for value in got.column("bits").to_pylist()]
    assert np.array_equal(np.packbits(array(got, "plain") > 0, axis=1), np.stack(bits))
    rows = zip(
        states,
        *(got.column(n).to_pylist() for n in ("tokens", "tokens16", "n_tokens")),
        strict=True,
    )
    for (_, hidden), tokens, tokens16, n_tokens in rows:
        assert n_tokens == len(hidden) == len(tokens) == len(tokens16)
        assert np.abs(np.array(tokens) - normed(hidden)).max() < CLOSE
        assert np.abs(np.array(tokens16, np.float32) - hidden[:, :8]).max() < 1e-2
    types = {name: str(got.schema.field(name).type) for name in got.column_names[1:10]}
    assert types == {
        "plain": "fixed_size_list<item: float>[32]",
        "half": "fixed_size_list<item: halffloat>[32]",
        "weighted": "fixed_size_list<item: float>[32]",
        "short": "fixed_size_list<item: float>[16]",
        "bits": "fixed_size_binary[4]",
        "codes": "fixed_size_list<item: int8>[32]",
        "layer0": "fixed_size_list<item: float>[32]",
        "tokens": "list<item: fixed_size_list<item: float>[32]>",
        "tokens16": "list<item: fixed_size_list<item: halffloat>[8]>",
    }
    assert verify(str(job.folder / "out"), sample=10)["problems"] == []


@pytest.mark.parametrize("labels", [1, 3])
def test_scores_are_the_cross_encoders(job: Job, tiny_bert: Path, tmp_path, labels: int) -> None:
    folder = folder_of(
        tiny_bert, tmp_path / "cross", BertForSequenceClassification, num_labels=labels
    )
    sections = {"input": {"id": "n", "pair": "b"}, "model": {"name": str(folder)}}
    got = outputs(job, [{"name": "score", "source": "scores"}], **sections)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).double()  # all errors: ours
    with torch.inference_mode():
        logits = [
            model(**tokenizer(a, b or None, return_tensors="pt")).logits[0]
            for a, b in zip(A, B, strict=True)
        ]
    want = torch.stack(logits)
    want = torch.sigmoid(want)[:, 0] if labels == 1 else want
    assert np.abs(array(got, "score") - want.numpy()).max() < CLOSE
    kind = pa.float32() if labels == 1 else pa.list_(pa.field("element", pa.float32()), 3)
    assert kind == got.schema.field("score").type
    assert verify(str(job.folder / "out"), sample=10)["problems"] == []
    with pytest.raises(SpecError, match="'score' holds scores; can be searched: none"):
        search(str(job.folder / "out"), "rain", column="score")


def test_the_activation_of_a_cross_encoder_is_its_own(job: Job, tiny_bert, tmp_path) -> None:
    folder = folder_of(tiny_bert, tmp_path / "cross", BertForSequenceClassification, num_labels=1)
    config = json.loads((folder / "config.json").read_text())
    config["sbert_ce_default_activation_function"] = "torch.nn.modules.linear.Identity"
    (folder / "config.json").write_text(json.dumps(config))
    got = outputs(job, [{"name": "s", "source": "scores"}], model={"name": str(folder)})

    values = got.column("s").to_numpy()
    assert values.min() < 0 or values.max() > 1, "a logit, not a probability"


def test_sparse_is_the_reference_splade(job: Job, tiny_bert: Path, tmp_path: Path) -> None:
    folder = folder_of(tiny_bert, tmp_path / "splade", BertForMaskedLM, initializer_range=0.2)
    got = outputs(job, [{"name": "terms", "source": "sparse"}], model={"name": str(folder)})

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    for text, entries in zip(A, got.column("terms").to_pylist(), strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        want = torch.log1p(torch.relu(logits)).amax(dim=0).numpy()
        found = np.zeros_like(want)
        index = [entry["index"] for entry in entries]
        assert index == sorted(index)
        found[index] = [entry["value"] for entry in entries]
        assert np.abs(found - want).max() < CLOSE
        assert all(entry["value"] > 0 for entry in entries)
    assert verify(str(job.folder / "out"), sample=10)["problems"] == []


@pytest.mark.parametrize("source", ["scores", "sparse"])
def test_a_missing_head_is_said_before_anything_is_encoded(
    job: Job, tiny_bert: Path, tmp_path: Path, source: str
) -> None:
    with pytest.raises(ModelError, match=r"HEAD_MISSING.*is BertModel, column 'x' needs a \*"):
        outputs(job, [{"name": "x", "source": source}])
    folder = shutil.copytree(tiny_bert, tmp_path / "liar")
    config = json.loads((folder / "config.json").read_text())
    kind = {"scores": "ForSequenceClassification", "sparse": "ForMaskedLM"}[source]
    config["architectures"] = [f"Bert{kind}"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="HEAD_MISSING.*has no tensor"):
        outputs(job, [{"name": "x", "source": source}], model={"name": str(folder)})
    assert not list((job.folder / "out").glob("data/*/*"))


def columns_of(job: Job, folder: Path) -> tuple[VectorColumn, ...]:
    return resolve_columns(job.spec(model={"name": str(folder)}), open_model(str(folder)))


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize("modes", [*([mode] for mode in MODES), ["mean", "cls"], MODES], ids=str)
@pytest.mark.parametrize("form", ["flags", "mode"])
def test_auto_is_every_pooling_of_sentence_transformers(
    job: Job, tiny_bert: Path, tmp_path: Path, modes: list[str], form: str
) -> None:
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules.pooling")
    flags = dict(zip(MODES, [
        "cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
        "lasttoken",
    ], strict=True))  # fmt: skip
    config = {"word_embedding_dimension": 32, "pooling_mode": modes}
    if form == "flags":
        config = {"word_embedding_dimension": 32}
        config |= {f"pooling_mode_{flag}": mode in modes for mode, flag in flags.items()}
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (column,) = columns_of(job, folder)
    assert column.dim == 32 * len(modes)

    states_TD = torch.randn(12, 32, generator=torch.Generator().manual_seed(1))
    cu_S1 = np.array([0, 5, 12])
    got = pool(states_TD, cu_S1, column.pooling, torch.tanh)
    theirs = modules.Pooling.load(str(folder / "1_Pooling"))
    want = [
        theirs({"token_embeddings": states_TD[a:b][None], "attention_mask": torch.ones(1, b - a)})
        for a, b in ((0, 5), (5, 12))
    ]
    assert (got - torch.cat([one["sentence_embedding"] for one in want])).abs().max() < CLOSE


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"source": "scores", "pooling": "mean"}, "source: scores has no pooling mean"),
        ({"source": "sparse", "dtype": "int8"}, "source: sparse has no dtype int8"),
        ({"source": "sparse", "dim": 8}, "source: sparse has no dim 8"),
        ({"source": "scores", "normalize": True}, "source: scores is never normalized"),
        ({"source": "input", "pooling": "pooler"}, "the pooler reads the last layer"),
        ({"pooling": "tokens", "dtype": "int8"}, "tokens is float32 or float16, not int8"),
        ({"dtype": "binary", "dim": 12}, "packs 8 values a byte; dim 12 does not fit"),
    ],
)
def test_what_makes_no_sense_is_said(job: Job, column: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        job.spec(output={"columns": [{"name": "x", **column}]})


def column_of(**changes) -> VectorColumn:
    fields = {"name": "v", "source": "encoder", "pooling": "mean", "normalize": False}
    fields |= {"dtype": "float32", "dim": 2, "full_dim": 2}
    return VectorColumn(**(fields | changes))


def test_the_guard_covers_each_kind() -> None:
    cu_S1 = np.array([0, 2, 3])
    nan = float("nan")
    tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, nan]])
    rows = torch.tensor([[0.0, 1.0], [0.0, 0.0], [nan, 1.0]])
    cu_3 = np.array([0, 1, 2, 3])
    assert faults(tokens, cu_S1, column_of(pooling="tokens")).tolist() == [False, True]
    half = tokens.clone()
    half[0] *= 0.5
    unit = column_of(pooling="tokens", normalize=True)
    assert faults(half, cu_S1, unit).tolist() == [True, True]
    scores, sparse = column_of(source="scores"), column_of(source="sparse")
    assert faults(rows, cu_3, scores).tolist() == [False, False, True], "a score may be 0"
    assert faults(rows, cu_3, sparse).tolist() == [False, True, True]
    for dtype in ("int8", "binary"):
        assert faults(rows, cu_3, column_of(dtype=dtype)).tolist() == [False, True, True]


def test_every_reader_of_parquet_knows_the_types(tmp_path: Path) -> None:
    import polars as pl

    kinds = [
        column_of(), column_of(dtype="int8"), column_of(dtype="binary", dim=8),
        column_of(pooling="tokens", dtype="float16"), column_of(source="sparse"),
        column_of(source="scores", dim=1), column_of(source="scores"),
    ]  # fmt: skip
    schema = pa.schema([(str(n), vector_type(column)) for n, column in enumerate(kinds)])
    assert not any(isinstance(kind, pa.BaseExtensionType) for kind in schema.types)
    pq.write_table(schema.empty_table(), tmp_path / "x.parquet")
    assert len(kinds) == pl.read_parquet(tmp_path / "x.parquet").width
