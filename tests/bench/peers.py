"""Our engine and others, texts in and unit vectors out, in turns in one process on this machine.

    OMP_WAIT_POLICY=PASSIVE PYTHONPATH=. python tests/bench/peers.py --rounds 5

One shard of the Debian descriptions, a sample of all its lengths. Every round runs each variant
once, the base first; a ratio is that of one round. On a machine that is not quiet, the seconds that
the cores worked say more than those that passed: both are printed, as medians and spreads, and how
much the rest of the machine worked meanwhile. Those that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is imported

import numpy as np
import pyarrow.parquet as pq
import torch

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode.load import load_encoder
from embedmill.pipeline.pack import sort_by_length
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.pipeline.vectors.pool import pool
from tests.bench import peer_engines as peers
from tests.bench.engine import DATA, busy, describe, model_folder, spread

MAX_TOKENS, PACK_TOKENS = 256, 2048


def read_texts(rows: int) -> list[str]:
    """Groups of 32 neighbours of the shard sorted by length, evenly from all of it."""
    path = DATA / "debian-packages" / "en" / "part-00000.parquet"
    texts = sorted(pq.read_table(path, columns=["text"])["text"].to_pylist(), key=len)
    starts = np.linspace(0, len(texts) - 32, max(2, rows // 32)).astype(int)
    return [text for start in starts for text in texts[start : start + 32]]


def ours(folder: Path, precision: str, threads: int) -> peers.Encode:
    """The rooms of a run: tokens, packs, encoder, pool."""
    encoder = load_encoder(folder, device="cpu", precision=precision, threads=threads)
    tokenizer = Tokenizer(
        folder, max_tokens=MAX_TOKENS, truncation="longest_first", parse_specials=False
    )

    def encode(texts: list[str]) -> np.ndarray:
        sequences, place_S = sort_by_length(tokenizer.encode(texts, None))
        cu_S1, first, found = sequences.cu_S1, 0, []
        while first < len(texts):
            last = int(np.searchsorted(cu_S1, cu_S1[first] + PACK_TOKENS, "right")) - 1
            pack = Pack(sequences.ids_T, cu_S1, sequences.second_S).part(first, last)
            pooled_SD = pool(encoder.encode(pack).hidden_TD, pack.cu_S1, "mean", encoder.pooler)
            found.append(torch.nn.functional.normalize(pooled_SD).numpy())
            first = last
        return np.concatenate(found)[place_S]

    encode.path = encoder.engine["path"]
    return encode


def others(folder: Path, texts: list[str], threads: int, home: Path) -> dict[str, Callable]:
    """What makes each of the other engines, by name."""
    loop, onnx = peers.Padded(folder, MAX_TOKENS), home / "model.onnx"

    def exported() -> Path:
        return onnx if onnx.exists() else peers.export(folder, onnx)

    found = {
        "onnxruntime fp32": lambda: peers.onnxruntime(exported(), loop, threads, False),
        "onnxruntime int8": lambda: peers.onnxruntime(exported(), loop, threads, True),
    }
    for precision, name in (("exact", "fp32"), ("fast", "bf16"), ("int8", "int8")):
        found[f"openvino {name}"] = lambda precision=precision: peers.openvino(
            exported(), loop, threads, precision, texts[::7]
        )
    return found


def made(args: argparse.Namespace, folder: Path, texts: list[str], home: Path) -> dict:
    """The variants that this machine can run, in the order of a round."""
    makers: dict[str, Callable] = {
        f"sentence-transformers {dtype}, batch {size}": lambda size=size, dtype=dtype: (
            peers.sentence_transformers(folder, size, MAX_TOKENS, dtype)
        )
        for dtype, size in (("float32", 32), ("float32", 8), ("bfloat16", 8))
    }
    for precision in ("exact", "fast", "int8"):
        makers[f"ours {precision}"] = lambda p=precision: ours(folder, p, args.threads)
    makers |= others(folder, texts, args.threads, home)
    found = {}
    for name, make in makers.items():
        if args.only and not any(word in name for word in [*args.only, "batch 32"]):
            continue
        try:
            encode = make()
            encode(texts[:32])
        except Exception as error:  # each library has errors of its own; all mean the same here
            print(f"- left out: {name} ({str(error).splitlines()[0][:90]})")
            continue
        found[name] = encode
    return found


def main() -> None:
    """Runs the rounds and prints a Markdown table; --json writes every sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1e9, help="no new round after so many")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="*", help="words of variants; the base is always there")
    parser.add_argument("--base", action="store_true", help="bert-base's shape, random weights")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    peers.quiet_exporters()
    texts = read_texts(args.rows)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = peers.random_base(home / "base", model_folder()) if args.base else model_folder()
        describe(args.threads)
        variants = made(args, model, texts, home)
        torch.set_num_threads(args.threads)
        samples, vectors = rounds(args, variants, texts)
    tokenizer = peers.Padded(model_folder(), MAX_TOKENS).tokenizer
    tokens = sum(len(encoding) for encoding in tokenizer.encode_batch_fast(texts))
    if args.json:
        args.json.write_text(json.dumps({"tokens": tokens, "samples": samples}))
    print(f"- {len(texts)} texts, {tokens:,} tokens, {len(next(iter(samples.values())))} rounds\n")
    table(tokens, samples, vectors)


def rounds(args: argparse.Namespace, variants: dict, texts: list[str]) -> tuple[dict, dict]:
    """Each variant once a round: (wall s, core s, share of the cores that others had)."""
    samples: dict[str, list] = {name: [] for name in variants}
    vectors, stop = {}, time.monotonic() + args.seconds
    for _ in range(args.rounds):
        if time.monotonic() > stop:
            break
        for name, encode in variants.items():
            (machine, own), start = busy(), time.perf_counter()
            vectors[name] = encode(texts)
            wall, (later, own_later) = time.perf_counter() - start, busy()
            core = own_later - own
            elsewhere = max(0.0, later - machine - core) / wall / (os.cpu_count() or 1)
            samples[name].append((wall, core, elsewhere))
            print(f"{name}: {wall:.2f} s, {core:.2f} of cores", file=sys.stderr, flush=True)
    return samples, vectors


def table(tokens: int, samples: dict[str, list], vectors: dict[str, np.ndarray]) -> None:
    """One line a variant."""
    base = next(iter(samples))
    print("| variant | tokens/s | ratio of time | ratio of core time | others | max abs diff "
          "| mean 1 - cosine |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, found in samples.items():
        pairs = list(zip(samples[base], found, strict=True))
        ratios = [spread([b[n] / s[n] for b, s in pairs], 2) for n in (0, 1)]
        rates = spread([tokens / wall for wall, _, _ in found], 0)
        busy_share = statistics.median(share for _, _, share in found)
        apart = vectors[name].astype(np.float64) - vectors[base]
        lost = (apart**2).sum(1).mean() / 2  # of unit vectors
        print(f"| {name} | {rates} | {' | '.join(ratios)} | {busy_share:.0%} "
              f"| {np.abs(apart).max():.1e} | {lost:.1e} |")  # fmt: skip


if __name__ == "__main__":
    main()
