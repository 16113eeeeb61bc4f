"""The Triton kernels and the forward pass made of them: compiled on a GPU, interpreted without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode.cuda import PackedCuda, fits
from embedmill.pipeline.encode.graphs import Shape
from embedmill.pipeline.encode.weights import read_weights
from embedmill.pipeline.vectors.pool import pool
from tests.pipeline.berts import make_pack, reference, save_bert
from tests.tiny import save_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="no triton for this machine: it comes with CUDA builds")
from embedmill.pipeline.encode import kernels  # noqa: E402

TOLERANCE = {torch.float32: 4e-6, torch.float16: 4e-3}
LENGTHS = [2, 17, 64, 65, 1, 31, 130]


def on_device(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array, device=DEVICE) for array in arrays]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def offsets(lengths: list[int], empty: int = 0) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([*lengths, *[0] * empty])]).astype(np.int32)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("k", kernels.HEAD_WIDTHS)
@pytest.mark.parametrize("lengths", [[2, 16, 9], [20, 32, 5], [2, 17, 64, 33], LENGTHS])
def test_attention_stays_inside_each_sequence(dtype, k, lengths):
    """Every tile size; empty sequences at the end; NaN in a neighbour stays with the neighbour."""
    heads, cu_N1 = 3, offsets(lengths, empty=4)
    qkv_T3D = randn(int(cu_N1[-1]) + 5, 3 * heads * k).to(dtype)
    qkv_T3D[: lengths[0]] = torch.nan
    got_TD = kernels.attend(qkv_T3D, *on_device(cu_N1), heads, max(lengths))
    assert got_TD.dtype == dtype
    assert got_TD[: lengths[0]].isnan().all()
    for first, last in zip(cu_N1[1:-5], cu_N1[2:-4], strict=True):
        one = qkv_T3D[first:last].double().view(last - first, 3, heads, k).permute(1, 2, 0, 3)
        want = scaled_dot_product_attention(*one).transpose(0, 1).reshape(last - first, -1)
        assert (got_TD[first:last] - want).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("width", [16, 48, 384])
def test_embeddings_are_summed_then_normalised(width, types):
    cu_N1 = offsets(LENGTHS, empty=3)
    seconds = np.array([1, 17, 30, 2, 1, 8, 129, 0, 0, 0], np.int32)
    pack = Pack(np.arange(cu_N1[-1], dtype=np.int32) % 99, cu_N1, seconds)
    token, segment, position = randn(99, width), randn(2, width), randn(140, width)
    norm = randn(width), randn(width + 1)[1:]
    ids_T, types_T, positions_T = on_device(pack.ids_T, pack.types_T, pack.positions_T)
    want = token[ids_T.long()] + position[positions_T.long()]
    want += segment[types_T.long()] if types else 0
    want = layer_norm(want.double(), (width,), *(x.double() for x in norm), 1e-12)
    got = kernels.embed(
        ids_T, *on_device(cu_N1, seconds), (token, segment if types else None, position), norm,
        1e-12, max(LENGTHS), torch.float32,
    )  # fmt: skip
    assert (got - want).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("total", "width"), [(1, 16), (77, 48), (9, 384), (5, 1024), (3, 2100)])
def test_layer_norm_of_a_sum_in_place(dtype, total, width):
    x_TD, added_D = randn(total, width).to(dtype), randn(width + 2)[2:].to(dtype)
    norm = randn(width), randn(width + 1)[1:]
    want = (x_TD.double() + added_D.double(), (width,), *(x.double() for x in norm))
    want_TD = layer_norm(*want, 1e-12)
    got_TD = kernels.add_norm_(x_TD, added_D, norm, 1e-12)
    assert got_TD is x_TD
    assert (got_TD - want_TD).abs().max() < TOLERANCE[dtype] * 4


@pytest.mark.parametrize("act", ["gelu", "relu"])
@pytest.mark.parametrize(("lengths", "seconds"), [
    ([2], None), ([2, 3, 5, 5, 8, 13, 40, 60], [1, 3, 2, 5, 8, 7, 20, 60]), ([90, 2, 90], None),
])  # fmt: skip
def test_the_forward_pass_is_the_references(tmp_path, act, lengths, seconds):
    """In fp32, so that a wrong id, position or segment cannot hide; on a GPU with its own GELU."""
    shape = {"hidden_size": 64, "num_attention_heads": 4, "hidden_act": act}
    model, pack = save_bert(tmp_path, **shape), make_pack(lengths, seconds)
    want_input, want_hidden, want_pooled = reference(model, pack)
    weights = read_weights(tmp_path)
    assert fits(weights) == (DEVICE == "cuda")
    encoder = PackedCuda(weights, DEVICE, torch.float32)
    hidden = encoder.encode(pack)
    near = 1e-5 if act == "relu" or DEVICE == "cpu" else 2e-3
    assert (hidden.input_TD.cpu() - want_input).abs().max() < 1e-5
    assert (hidden.hidden_TD.cpu() - want_hidden).abs().max() < near
    assert hidden.cu_S1.tolist() == pack.cu_S1.tolist()
    pooled_SD = encoder.pooler(pool(hidden.hidden_TD, hidden.cu_S1, "cls", encoder.pooler))
    assert (pooled_SD.cpu() - want_pooled).abs().max() < near
    half = PackedCuda(weights, DEVICE, torch.float16).encode(pack).hidden_TD
    assert half.dtype == torch.float16
    cosines = torch.cosine_similarity(half.cpu().double(), want_hidden, dim=1)
    assert (1 - cosines).max() < 1e-4


@pytest.mark.parametrize("kind", ["camembert", "distilbert", "electra", "roberta", "xlm-roberta"])
def test_other_families_take_the_same_pass(tmp_path, kind):
    """Positions that begin behind padding's, no segments, narrow tables."""
    wide = {"dim": 64} if kind == "distilbert" else {}
    model = save_model(tmp_path, kind, hidden_size=64, **wide)
    ids_T = np.random.default_rng(5).integers(5, 20, 37).astype(np.int32)
    pack = Pack(ids_T, np.array([0, 7, 37]), np.array([7, 30], np.int32))
    got = PackedCuda(read_weights(tmp_path), DEVICE, torch.float32).encode(pack)
    with torch.inference_mode():
        for first, last in ((0, 7), (7, 37)):
            ids = torch.tensor(ids_T[None, first:last]).long()
            out = model(input_ids=ids, output_hidden_states=True)
            near = 1e-5 if DEVICE == "cpu" else 2e-3
            first_states = out.hidden_states[0][0]
            assert (got.input_TD[first:last].cpu() - first_states).abs().max() < 1e-5
            assert (got.hidden_TD[first:last].cpu() - out.last_hidden_state[0]).abs().max() < near


@pytest.mark.parametrize("lengths", [[2], [511, 3], [2] * 300, [64] * 16, [65] * 17])
def test_a_pack_is_filled_up_to_the_next_shape(lengths):
    pack = make_pack(lengths)
    shape = Shape.of(pack)
    for size, least in ((shape.tokens, 256), (shape.sequences, 16), (shape.longest, 32)):
        assert size >= least and size & (size - 1) == 0
    assert sum(lengths) <= shape.tokens < max(2 * sum(lengths), 257)
    assert len(lengths) <= shape.sequences < max(2 * len(lengths), 17)
    assert max(lengths) <= shape.longest < max(2 * max(lengths), 33)
    flat = np.full(shape.inputs, -7, np.int32)
    shape.fill(pack, flat)
    ids_T, cu_N1, second_N = (part.numpy() for part in shape.split(torch.from_numpy(flat)))
    assert np.array_equal(pack.ids_T, ids_T[: len(pack.ids_T)])
    assert (ids_T[len(pack.ids_T) :] == -7).all()
    assert np.array_equal(pack.cu_S1, cu_N1[: len(pack.cu_S1)])
    assert (cu_N1[len(pack.cu_S1) :] == pack.cu_S1[-1]).all()
    assert np.array_equal(pack.second_S, second_N[: len(lengths)])
    assert (second_N[len(lengths) :] == 0).all()


def test_ids_that_a_gpu_would_die_of_are_refused(tmp_path):
    from embedmill.schemas.errors import ModelError

    save_bert(tmp_path, hidden_size=64, type_vocab_size=1)
    encoder = PackedCuda(read_weights(tmp_path), DEVICE, torch.float32)
    wrong = np.array([3, 99], np.int32), np.array([3] * 600, np.int32), np.array([3, 4], np.int32)
    for ids_T, second in zip(wrong, (2, 600, 1), strict=True):
        pack = Pack(ids_T, np.array([0, len(ids_T)]), np.array([second], np.int32))
        with pytest.raises(ModelError, match="ID_OUT_OF_RANGE|in a table of"):
            encoder.encode(pack)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_a_recorded_pass_gives_what_the_pass_gives(tmp_path: Path):
    """Replays with other packs of one shape, and a pack's bits in ten mixes of mates."""
    save_bert(tmp_path, hidden_size=64)
    encoder = PackedCuda(read_weights(tmp_path), DEVICE, torch.float16)
    random = np.random.default_rng(1)
    alone = make_pack([23])
    seen = set()
    for _ in range(10):
        lengths = [23, *random.integers(2, 32, 12).tolist()]
        cu_S1 = np.concatenate([[0], np.cumsum(lengths)])
        ids_T = random.integers(1, 99, cu_S1[-1]).astype(np.int32)
        ids_T[:23] = alone.ids_T
        pack = Pack(ids_T, cu_S1, np.array(lengths, np.int32))
        with torch.inference_mode():
            shape = Shape.of(pack)
            flat = np.zeros(shape.inputs, np.int32)
            shape.fill(pack, flat)
            plain = encoder._forward(torch.tensor(flat, device=DEVICE), shape)[1][: len(ids_T)]
        got = encoder.encode(pack).hidden_TD
        assert torch.equal(plain, got)
        seen.add(got[:23].cpu().numpy().tobytes())
    assert 1 == len(seen)
