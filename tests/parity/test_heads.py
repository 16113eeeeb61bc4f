"""Scores and sparse vectors of every architecture, through `run`, are transformers', padded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from embedmill.jobs.dataset import dataset
from embedmill.jobs.run import run
from embedmill.pipeline.encode.heads.ours import CLASSIFIERS, MASKED_LMS
from embedmill.pipeline.model.architectures import FAMILIES
from embedmill.schemas.spec import Spec
from tests.tiny import ARCHITECTURES, save_model

A = ["sun", "the old man and the sea", "yellow sour fruit " * 20, "a long road", "rain"]
B = ["moon", "", "cold water", "snow and wind and rain and stone", "is it late ?"]
CLASSES = {"scores": "AutoModelForSequenceClassification", "sparse": "AutoModelForMaskedLM"}
TOLERANCE = 1e-5
NO_MASKED_LM = {"qwen3"}  # a decoder
QUICK = {*FAMILIES, "albert", "modernbert", "qwen3"}  # of all others the long suite asks
CASES = [
    pytest.param(source, kind, marks=() if kind in QUICK else pytest.mark.slow)
    for source in CLASSES
    for kind in sorted(ARCHITECTURES)
    if source == "scores" or kind not in NO_MASKED_LM
]


def test_each_family_has_both_heads() -> None:
    assert FAMILIES.keys() == CLASSIFIERS.keys() == MASKED_LMS.keys()


def stored(folder: Path, source: str, write_texts: Callable[..., Path]) -> list[Any]:
    """What `run` stores for the pairs, in input order."""
    shard = write_texts(folder / "in" / "a.parquet", n=list(range(len(A))), a=A, b=B)
    spec = {
        "input": {"path": str(shard), "text": "a", "pair": "b", "id": "n"},
        "model": {"name": str(folder / "model"), "max_tokens": 100, "precision": "exact"},
        "output": {"path": str(folder / "out"), "columns": [{"name": "x", "source": source}]},
        "run": {"runner": "inline", "device": "cpu"},
    }
    run(Spec.model_validate(spec))
    return dataset(str(folder / "out")).to_table().sort_by("n")["x"].to_pylist()


@torch.inference_mode()
def wanted(model: Any, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of one padded batch, in fp64, and its mask; FNet, which mixes padding in, alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = int(getattr(model.config, "type_vocab_size", 0) or 0)
    encoded = [
        tokenizer(a, b or None, truncation=True, max_length=100, return_token_type_ids=True)
        for a, b in zip(A, B, strict=True)
    ]
    batch = tokenizer.pad(encoded, return_tensors="pt", padding_side="right")
    given = dict(batch)
    if known < 2 or model.config.model_type == "mpnet":
        del given["token_type_ids"]
    if model.config.model_type != "fnet":
        return model(**given).logits, batch["attention_mask"]
    mask = given.pop("attention_mask").bool()
    alone = [
        model(**{name: ids[s, mask[s]][None] for name, ids in given.items()}).logits
        for s in range(len(A))
    ]
    if alone[0].ndim == 2:
        return torch.cat(alone), mask
    return torch.nn.utils.rnn.pad_sequence([x[0] for x in alone], batch_first=True), mask


def near(got: np.ndarray, want: np.ndarray) -> None:
    """Within 1e-5, of the largest value where that is above 1."""
    assert np.abs(got - want).max() < TOLERANCE * max(1.0, np.abs(want).max())


@pytest.mark.parametrize(("source", "kind"), CASES)
def test_a_head_is_transformers(
    tmp_path: Path, write_texts: Callable[..., Path], source: str, kind: str
) -> None:
    (tmp_path / "model").mkdir()
    labels = {"num_labels": 3} if source == "scores" else {}
    model = save_model(tmp_path / "model", kind, CLASSES[source], **labels)

    got = stored(tmp_path, source, write_texts)

    logits, mask = wanted(model, tmp_path / "model")
    if source == "scores":
        near(np.array(got), logits.numpy())
        return
    logits = logits.masked_fill(mask[..., None] == 0, -torch.inf)
    values_SV = torch.log1p(torch.relu(logits.amax(dim=1))).numpy()
    for entries, want in zip(got, values_SV, strict=True):
        found = np.zeros_like(want)
        found[[entry["index"] for entry in entries]] = [entry["value"] for entry in entries]
        near(found, want)
        assert want.max() > 0.1
