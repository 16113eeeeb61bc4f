"""The stages of the GPU bench on tensors: ceilings, the engine and its variants, its fidelity.

Each returns lines of a table, or facts about them. M tok/s are real tokens: there is no padding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode.attention import attend_flash
from embedmill.pipeline.encode.bert import PackedBert
from embedmill.pipeline.encode.cuda import PackedCuda
from embedmill.pipeline.encode.load import load_encoder
from embedmill.pipeline.encode.weights import read_weights
from embedmill.pipeline.vectors.pool import pool
from tests.bench.gpu_models import SHAPES, packs_of, random_packs, token_packs

DEVICE = "cuda"
LINE = dict[str, float | str]


def ceilings() -> LINE:
    """What this device gives at best: a large copy, a large product of random values."""
    x, y = torch.randn(2**30, device=DEVICE, dtype=torch.float16), None
    y = torch.empty_like(x)
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.float16) for _ in range(2))
    copy, product = device_seconds(lambda: y.copy_(x)), device_seconds(lambda: a @ b)
    return {"copy_tb_s": 4 * 2**30 / copy / 1e12, "fp16_tflop_s": 2 * 8192**3 / product / 1e12}


def device_seconds(work: Callable[[], object], times: int = 5) -> float:
    """Median seconds of one call on the device."""
    work()
    found = []
    for _ in range(times):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        last.synchronize()
        found.append(first.elapsed_time(last) / 1e3)
    return float(np.median(found))


def flops(name: str, lengths_S: np.ndarray) -> float:
    """Of a forward pass over sequences of these lengths."""
    layers, width, _ = SHAPES[name]
    return float(layers * (24 * width**2 * lengths_S.sum() + 4 * width * (lengths_S**2).sum()))


def engine(
    name: str, folder: Path, rows: int, sizes: list[int], texts: list[str], most: int,
    rounds: int = 2,
) -> list[LINE]:  # fmt: skip
    """The engine over a unit, packs of ids in, unit vectors on the host out; variants in turns.

    Random ids of log-normal lengths in packs of several sizes, without graphs, and through a pass
    like that of a server which packs as well, eager and with a mean of its own for each sequence;
    and the ids of the texts that a whole run has.
    """
    encoder = PackedCuda(read_weights(folder), DEVICE, torch.float16)
    graphs, plain = encoder.forward, encoder._forward
    packs = {f"packs of {size}": random_packs(rows, size) for size in sizes}
    first = next(iter(packs.values()))
    packs |= {"no graphs": first, "eager, means in turn": first}
    packs["texts of the run"] = token_packs(folder, texts, most, sizes[0])
    variants: dict[str, Callable[[Pack], object]] = {
        "no graphs": lambda some: drive(encoder, plain, some),
        "eager, means in turn": lambda some: [eager(encoder, pack) for pack in some],
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in packs}
    for n in range(rounds + 1):  # the first warms up
        for variant, some in packs.items():
            work = variants.get(variant, lambda some: drive(encoder, graphs, some))
            torch.cuda.synchronize()
            began = time.perf_counter()
            work(some)
            torch.cuda.synchronize()
            if n:
                seconds[variant].append(time.perf_counter() - began)
    lines = []
    for variant, some in packs.items():
        lengths_S = np.concatenate([pack.lengths_S for pack in some])
        work = flops(name, lengths_S)
        lines.append(line(f"{name}, {variant}", lengths_S, work, seconds[variant]))
    return lines


def line(what: str, lengths_S: np.ndarray, work: float, seconds: list[float]) -> LINE:
    """A line of the table: median and spread of the rate."""
    rates = lengths_S.sum() / np.array(seconds) / 1e6
    return {
        "what": what, "mtok_s": float(np.median(rates)), "low": float(rates.min()),
        "high": float(rates.max()), "rows_s": len(lengths_S) / float(np.median(seconds)),
        "tflop_s": work / float(np.median(seconds)) / 1e12,
    }  # fmt: skip


def drive(encoder: PackedCuda, forward: Callable, packs: list[Pack]) -> None:
    """Packs in, unit vectors of their means on the host; a few packs ahead, as in a run."""
    encoder.forward, kept = forward, []
    for pack in packs:
        hidden = encoder.encode(pack)
        mean_SD = pool(hidden.hidden_TD, hidden.cu_S1, "mean", encoder.pooler)
        kept.append(functional.normalize(mean_SD).to("cpu", non_blocking=True))
        del kept[:-8]


@torch.inference_mode()
def eager(encoder: PackedCuda, pack: Pack) -> torch.Tensor:
    """Our weights as a server would run them: packed, no graphs, a mean for each sequence."""
    x_TD = encoder.embeddings(pack)[-1].half()
    cu, longest = torch.tensor(pack.cu_S1, device=DEVICE).int(), int(pack.lengths_S.max())
    config = encoder.config
    for layer in encoder.layers:
        qkv = torch.addmm(layer.qkv[1], x_TD, layer.qkv[0])
        q, k, v = qkv.view(len(qkv), 3, config.heads, -1).unbind(1)
        mixed = attend_flash(q, k, v, cu, longest).reshape(x_TD.shape)
        norms = [[tensor.half() for tensor in norm] for norm in (layer.norm_1, layer.norm_2)]
        x_TD = x_TD + torch.addmm(layer.out[1], mixed, layer.out[0])
        x_TD = functional.layer_norm(x_TD, x_TD.shape[1:], *norms[0], config.eps)
        inner = torch._addmm_activation(layer.up[1], x_TD, layer.up[0], use_gelu=True)
        x_TD = x_TD + torch.addmm(layer.down[1], inner, layer.down[0])
        x_TD = functional.layer_norm(x_TD, x_TD.shape[1:], *norms[1], config.eps)
    means = [one.float().mean(0) for one in x_TD.split(pack.lengths_S.tolist())]
    return functional.normalize(torch.stack(means)).cpu()


def fidelity(folder: Path, texts: list[str]) -> LINE:
    """1 - cosine of mean-pooled unit vectors with fp32 on the same device, by sequence."""
    packs = token_packs(folder, texts, 256, 16384)

    def vectors(precision: str) -> torch.Tensor:
        encoder = load_encoder(folder, device=DEVICE, precision=precision, threads=4)
        assert type(encoder) is (PackedCuda if precision == "fast" else PackedBert)
        found = map(encoder.encode, packs)
        means = [pool(h.hidden_TD, h.cu_S1, "mean", encoder.pooler) for h in found]
        return functional.normalize(torch.cat(means).double()).cpu()

    apart = 1 - (vectors("fast") * vectors("exact")).sum(dim=1)
    return {"texts": len(texts), "mean": float(apart.mean()), "max": float(apart.max())}


def same_bits(folder: Path, texts: list[str], mates: int = 150, times: int = 10) -> LINE:
    """How many different vectors a text gets in ten packs with random others: it shall be 1."""
    packs = token_packs(folder, texts, 256, 10**9)
    ids = np.split(packs[0].ids_T, packs[0].cu_S1[1:-1])
    encoder = load_encoder(folder, device=DEVICE, precision="fast", threads=4)
    random, most = np.random.default_rng(0), 0
    for text in (5, len(ids) // 3, 2 * len(ids) // 3, len(ids) - 5):
        seen = set()
        for _ in range(times):
            others = random.choice(np.setdiff1d(np.arange(len(ids)), text), mates, replace=False)
            chosen = [ids[n] for n in (text, *others)]
            lengths_S = np.array([len(one) for one in chosen])
            order = np.argsort(lengths_S, kind="stable")
            at = int(np.flatnonzero(order == 0)[0])
            (pack,) = packs_of(np.concatenate(chosen), lengths_S, 10**9)
            hidden = encoder.encode(pack)
            mean_SD = pool(hidden.hidden_TD, hidden.cu_S1, "mean", encoder.pooler)
            seen.add(mean_SD[at].cpu().numpy().tobytes())
        most = max(most, len(seen))
    return {"packs": times, "different": most}
