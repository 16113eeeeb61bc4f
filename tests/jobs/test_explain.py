"""Explain shows what the reference feeds to its model, to the last id and in every norm."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedmill.jobs.explain import NORMS, explain, explain_text
from embedmill.schemas.errors import ModelError, SpecError
from embedmill.schemas.spec import Spec


def make(folder: Path, **more: Any) -> Spec:
    """A spec whose input and output do not exist."""
    given = {"path": "/nowhere/in", "text": "text", **more.pop("input", {})}
    return Spec.model_validate(
        {
            "input": given,
            "model": {"name": str(folder), **more},
            "output": {"path": "/nowhere/out", "columns": [{"pooling": "mean"}]},
        }
    )


@pytest.fixture(scope="module")
def bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_bert with a LayerNorm that is not the trivial one, whose output has one norm only."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("bert") / "model"
    shutil.copytree(tiny_bert, folder)
    tensors = load_file(folder / "model.safetensors")
    random = np.random.default_rng(3)
    for kind in ("weight", "bias"):
        name = next(name for name in tensors if name.endswith(f"embeddings.LayerNorm.{kind}"))
        tensors[name] = random.normal(1, 0.5, tensors[name].shape).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def reference(bert: Path) -> Callable[..., dict[str, Any]]:
    """transformers' ids, and the norms of its embeddings, step by step."""
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(bert)
    model = BertModel.from_pretrained(bert).eval()

    @torch.inference_mode()
    def run(a: str, b: str | None = None, most: int = 128, split: bool = True) -> dict[str, Any]:
        batch = tokenizer(
            a, b, truncation=True, max_length=most, split_special_tokens=split, return_tensors="pt"
        )
        table = model.embeddings
        positions = torch.arange(batch["input_ids"].shape[1])[None]
        token = table.word_embeddings(batch["input_ids"])
        segment = table.token_type_embeddings(batch["token_type_ids"])
        position = table.position_embeddings(positions)
        states = model(**batch, output_hidden_states=True).hidden_states[0]
        total = token + segment + position
        steps = zip(NORMS, (token, segment, position, total, states), strict=True)
        return {
            "input_ids": batch["input_ids"][0].tolist(),
            "token_type_ids": batch["token_type_ids"][0].tolist(),
            "position_ids": positions[0].tolist(),
            "norms": {name: step[0].norm(dim=-1).tolist() for name, step in steps},
            "tokens": tokenizer.convert_ids_to_tokens(batch["input_ids"][0]),
        }

    return run


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in ("tokens", "input_ids", "token_type_ids", "position_ids"):
        assert found[key] == wanted[key], key
    for name in NORMS:
        np.testing.assert_allclose(
            found["norms"][name], wanted["norms"][name], rtol=0, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("yellow sour fruit", None),
        ("yellow sour fruit", "a lemon"),
        ("yellow sour fruit", ""),
        ("yellow", "  "),
        ("", None),
        ("", "lemon"),
        ("[SEP] lemon [MASK]", "x [CLS]"),
        ("你好 café", None),
    ],
)
def test_equals_the_reference(
    bert: Path, reference: Callable[..., Any], a: str, b: str | None
) -> None:
    found = explain(make(bert), a, b)
    assert_equal(found, reference(a, b or None))
    assert (found["n_tokens"], found["n_chars_cut"]) == (len(found["tokens"]), 0)
    assert json.loads(json.dumps(found)) == found


def test_the_second_segment_shows_in_the_norms(bert: Path) -> None:
    found = explain(make(bert), "lemon", "lemon")
    assert found["tokens"] == ["[CLS]", "lemon", "[SEP]", "lemon", "[SEP]"]
    assert found["token_type_ids"] == [0, 0, 0, 1, 1]
    norms = found["norms"]
    assert norms["token"][1] == norms["token"][3]
    assert abs(norms["segment"][1] - norms["segment"][3]) > 1e-3
    assert abs(norms["normed"][1] - norms["normed"][3]) > 1e-3


def test_special_tokens_in_text(bert: Path, reference: Callable[..., Any]) -> None:
    found = explain(make(bert, special_tokens_in_text="parse"), "fire [SEP] ice")
    assert_equal(found, reference("fire [SEP] ice", split=False))
    assert found["tokens"].count("[SEP]") == 2


def test_truncation_and_what_was_cut(bert: Path, reference: Callable[..., Any]) -> None:
    a, b = "apple " * 10, "river stone"
    found = explain(make(bert, max_tokens=10), a, b)
    assert_equal(found, reference(a, b, most=10))
    assert (found["n_tokens"], found["max_tokens"]) == (10, 10)
    assert found["n_chars_cut"] == len(a) - len("apple " * 5) + 1
    assert "were cut" in explain_text(found)
    only = explain(make(bert, max_tokens=10, truncation="only_second"), "apple " * 6, b)
    assert "river" in only["tokens"] and "stone" not in only["tokens"]
    assert only["n_chars_cut"] == len(" stone")


def test_prompt_by_name_and_literal(bert: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bert, tmp_path / "model")
    prompts = {"prompts": {"short": "sun: "}}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    named = explain(make(model, input={"prompt": "short"}), "rain")
    literal = explain(make(model, input={"prompt": "sun: "}), "rain")
    assert named == literal
    assert named["tokens"][1] == "sun"
    assert named["prompt"] == "sun: "
    assert "'sun: '" in explain_text(named)


def test_why_a_row_would_be_rejected(bert: Path) -> None:
    assert explain(make(bert), "rain")["reject"] is None
    assert explain(make(bert), " ")["reject"] == "EMPTY_TEXT"
    assert explain(make(bert, input={"on_empty": "encode"}), " ")["reject"] is None
    long = make(bert, max_tokens=8, long_text="reject")
    found = explain(long, "rain " * 20)
    assert found["reject"] == "TEXT_TOO_LONG"
    assert "no vector: TEXT_TOO_LONG" in explain_text(found)


def test_the_table_is_aligned(bert: Path) -> None:
    lines = explain_text(explain(make(bert), "yellow fruit", "lemon")).splitlines()
    assert lines[0].split() == [
        "position", "segment", "id", "token", "|token|", "|segment|", "|position|", "|sum|",
        "|normed|",
    ]  # fmt: skip
    rows = lines[1 : lines.index("")]
    found = explain(make(bert), "yellow fruit", "lemon")
    assert len(rows) == found["n_tokens"]
    assert {len(row) for row in rows} == {len(lines[0])}
    assert lines[-1] == f"{found['n_tokens']} tokens of at most 128; nothing was cut"


def test_what_is_wrong_is_said(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="UTF-8"):
        explain(make(bert), "\udcff")
    with pytest.raises(ModelError, match="MODEL_MISSING"):
        explain(make(tmp_path / "none"), "rain")
    with pytest.raises(ModelError, match="positions"):
        explain(make(bert, max_tokens=129), "rain")
