"""Our encoder against transformers, padded, in fp64: ids, segments, positions and states."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode import auto
from embedmill.pipeline.encode.auto import AutoEncoder
from embedmill.pipeline.encode.load import load_encoder
from embedmill.pipeline.load import check_segments
from embedmill.pipeline.model.architectures import FAMILIES
from embedmill.pipeline.model.folder import open_model
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from tests.tiny import ARCHITECTURES, save_model

A = [
    "sun",
    "the old man and the sea",
    "yellow sour fruit " * 20,
    "query: a long road to the river",
    "the old man and the sea",
    "rain on the roof",
]
B = ["moon", "", "cold water", "snow and wind and rain and stone", "a star", "is it late ?"]
TOLERANCE = 1e-5


def tokens_of(folder: Path, b: list[str] | None, a: list[str] = A) -> tuple[Tokenizer, Pack]:
    """The texts as one pack, by our tokenizer, for the folder's model."""
    types = open_model(str(folder)).types
    tokenizer = Tokenizer(
        folder, max_tokens=100, truncation="longest_first", parse_specials=False, segments=types
    )
    check_segments(tokenizer, types, b is not None)
    s = tokenizer.encode(a, b)
    return tokenizer, Pack(s.ids_T, s.cu_S1, s.second_S)


@torch.inference_mode()
def reference(
    model, folder: Path, b: list[str] | None, a: list[str] = A
) -> tuple[np.ndarray, torch.Tensor, ...]:
    """Ids, hidden_states[0] and last_hidden_state of all tokens, from one padded batch."""
    raw = RawTokenizer.from_file(str(folder / "tokenizer.json"))
    padding = model.config.pad_token_id
    raw.enable_padding(pad_id=padding, pad_token=raw.id_to_token(padding))
    raw.enable_truncation(100)
    inputs = a if b is None else [(x, y) if y else x for x, y in zip(a, b, strict=True)]
    found = raw.encode_batch(inputs)
    ids, types, mask = (
        torch.tensor([getattr(one, name) for one in found])
        for name in ("ids", "type_ids", "attention_mask")
    )
    known = int(getattr(model.config, "type_vocab_size", 0) or 0)
    given = {"token_type_ids": types} if known and model.config.model_type != "mpnet" else {}
    keep = mask.bool()
    if model.config.model_type == "fnet":  # it mixes the padding in: each sequence alone
        alone = [
            model(one[on][None], token_type_ids=kind[on][None], output_hidden_states=True)
            for one, kind, on in zip(ids, types, keep, strict=True)
        ]
        states = [torch.cat([x[0] for x in part]) for part in zip(
            *((o.hidden_states[0], o.last_hidden_state) for o in alone), strict=True)]  # fmt: skip
        return ids[keep].numpy(), *states
    out = model(ids, attention_mask=mask, output_hidden_states=True, **given)
    return ids[keep].numpy(), out.hidden_states[0][keep], out.last_hidden_state[keep]


PADDED = {"deberta-v2", "fnet", "rembert"}  # ignore our attention, or have none


def test_most_architectures_are_packed():
    assert len(ARCHITECTURES.keys() - PADDED) >= 14


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_any_encoder_is_the_padded_reference(tmp_path, kind):
    model = save_model(tmp_path, kind)
    encoder = load_encoder(tmp_path, device="cpu", precision="exact", threads=1)
    for b, prompt in ((None, ""), (None, "look at the rain : "), (B, ""), (B, "sea ")):
        a = [prompt + text for text in A]
        _, pack = tokens_of(tmp_path, b, a)
        ids, input_TD, hidden_TD = reference(model, tmp_path, b, a)
        assert pack.ids_T.tolist() == ids.tolist()
        got = encoder.encode(pack)
        assert (got.input_TD - input_TD).abs().max() < TOLERANCE
        assert (got.hidden_TD - hidden_TD).abs().max() < TOLERANCE
    assert got.hidden_TD.dtype == torch.float32
    assert encoder.dim == got.hidden_TD.shape[1] == 48
    path = encoder.engine["path"]
    ours = path in ("packed", "packed-onednn", "packed-native")
    assert ours == (kind in FAMILIES)
    assert (path == "padded") == (kind in PADDED)  # found by the self-test, which has no list


@pytest.mark.parametrize(
    ("kind", "path"), [("mpnet", "padded"), ("deberta-v2", "padded"), ("bert", "packed-auto")]
)
def test_the_self_test_finds_who_ignores_our_attention(tmp_path, monkeypatch, kind, path):
    model = save_model(tmp_path, kind)
    encoder = AutoEncoder(tmp_path, "cpu", torch.float32)
    assert encoder.engine["path"] == path
    _, pack = tokens_of(tmp_path, B)
    _, _, hidden_TD = reference(model, tmp_path, B)
    assert (encoder.encode(pack).hidden_TD - hidden_TD).abs().max() < TOLERANCE
    # An architecture that says it takes our attention is not believed.
    monkeypatch.setattr(type(encoder.model), "_supports_attention_backend", True)
    assert AutoEncoder(tmp_path, "cpu", torch.float32).engine["path"] == path
    if path == "packed-auto":
        return
    monkeypatch.setattr(auto, "TOLERANCE", float("inf"))
    trusted = AutoEncoder(tmp_path, "cpu", torch.float32)
    assert trusted.engine["path"] == "packed-auto"
    assert (trusted.encode(pack).hidden_TD - hidden_TD).abs().max() > 0.1


def test_windows_of_local_attention_are_kept(tmp_path):
    model = save_model(tmp_path, "modernbert", local_attention=6)
    encoder = load_encoder(tmp_path, device="cpu", precision="exact", threads=1)
    assert encoder.engine["path"] == "packed-auto"
    _, pack = tokens_of(tmp_path, None)
    assert pack.lengths_S.max() > 6
    _, _, hidden_TD = reference(model, tmp_path, None)
    assert (encoder.encode(pack).hidden_TD - hidden_TD).abs().max() < TOLERANCE
    for layer in encoder.model.layers:
        layer.attn.sliding_window = None
    assert (encoder.encode(pack).hidden_TD - hidden_TD).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "mpnet", "data2vec-text"])
def test_positions_begin_behind_padding(tmp_path, kind):
    save_model(tmp_path, kind)
    assert open_model(str(tmp_path)).positions == 128


@pytest.mark.parametrize("kind", ["albert", "deberta-v2", "electra", "roberta", "distilbert"])
def test_half_precision_is_near(tmp_path, kind):
    model = save_model(tmp_path, kind, initializer_range=0.05)
    encoder = load_encoder(tmp_path, device="cpu", precision="fast", threads=1)
    _, pack = tokens_of(tmp_path, None)
    got, (_, _, hidden_TD) = encoder.encode(pack), reference(model, tmp_path, None)
    assert got.hidden_TD.dtype == torch.float32
    for begin, end in pairwise(pack.cu_S1):
        mean, want = got.hidden_TD[begin:end].mean(0), hidden_TD[begin:end].mean(0).float()
        assert torch.cosine_similarity(mean, want, dim=0) > 0.999


@pytest.mark.parametrize("kind", ["albert", "ernie", "roberta", "bert"])
def test_poolers(tmp_path, kind):
    model = save_model(tmp_path, kind)
    encoder = load_encoder(tmp_path, device="cpu", precision="exact", threads=1)
    _, pack = tokens_of(tmp_path, None)
    cls_SD = encoder.encode(pack).hidden_TD[pack.cu_S1[:-1]]
    with torch.inference_mode():
        for s, (begin, end) in enumerate(pairwise(pack.cu_S1)):
            want = model(torch.tensor(pack.ids_T[begin:end]).long()[None]).pooler_output[0]
            assert (encoder.pooler(cls_SD)[s] - want).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["albert", "ernie", "deberta-v2", "data2vec-text", "modernbert"])
def test_embeddings_of_other_models_are_their_tables(tmp_path, kind):
    model = save_model(tmp_path, kind).float()
    encoder = load_encoder(tmp_path, device="cpu", precision="exact", threads=1)
    _, pack = tokens_of(tmp_path, None)
    token, segment, position, total, normed = encoder.embeddings(pack)
    table = model.get_input_embeddings().weight
    assert torch.equal(token, table[torch.tensor(pack.ids_T).long()])
    assert torch.equal(total, token + segment + position)
    assert bool(segment.any()) == (kind in ("albert", "ernie", "data2vec-text"))
    assert bool(position.any()) == (kind in ("albert", "ernie", "data2vec-text"))
    assert torch.equal(normed, encoder.encode(pack).input_TD)
