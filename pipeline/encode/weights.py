"""Reads the weights of one of our families: config.json and safetensors, nothing else.

Everything is checked here, once, in one line per problem, so that a forward pass never meets a
missing, misshapen or non-finite tensor. What a sentence-transformers folder says beside that, its
modules and pooling, is read where the job is planned. F is the width of the feed-forward layer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from embedmill.pipeline.model.architectures import (
    FAMILIES,
    Family,
    first_position,
    usual,
    why_not_ours,
)
from embedmill.pipeline.model.sentence_folder import weight_files
from embedmill.schemas.errors import ModelError

# What the reference assumes where config.json is silent.
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
# All other tensors are heads of other tasks.
TRUNK = ("embeddings.", "encoder.", "transformer.", "pooler.", "embeddings_project.")
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # saved by old versions
LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Config:
    """The fields of config.json that shape the forward pass."""

    vocab: int  # V
    width: int  # D
    layers: int
    heads: int  # H
    inner: int  # F
    positions: int
    types: int
    eps: float
    act: str
    table: int  # E: the width of the embedding tables, D but for some ELECTRAs
    first: int  # the row of the position table that a sequence begins with
    buckets: int  # of relative positions; 0: none
    family: Family


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer; weights are (out, in), fp32."""

    qkv: tuple[torch.Tensor, torch.Tensor]  # (3D, D), (3D,): query, key and value as one product
    out: tuple[torch.Tensor, torch.Tensor]  # (D, D), (D,)
    norm_1: tuple[torch.Tensor, torch.Tensor]  # (D,), (D,)
    up: tuple[torch.Tensor, torch.Tensor]  # (F, D), (F,)
    down: tuple[torch.Tensor, torch.Tensor]  # (D, F), (D,)
    norm_2: tuple[torch.Tensor, torch.Tensor]  # (D,), (D,)


@dataclass(frozen=True, slots=True)
class Weights:
    """An encoder in canonical form, fp32, on the CPU, in memory of its own."""

    config: Config
    token: torch.Tensor  # (V, E)
    segment: torch.Tensor | None  # (types, E)
    position: torch.Tensor  # (positions, E): row n is that of token n of a sequence
    norm: tuple[torch.Tensor, torch.Tensor]  # (E,), (E,)
    project: tuple[torch.Tensor, torch.Tensor] | None  # (D, E), (D,)
    layers: tuple[Layer, ...]
    bias: torch.Tensor | None  # (buckets, H): what a distance adds to attention's scores
    pooler: tuple[torch.Tensor, torch.Tensor] | None  # (D, D), (D,)


def read_weights(folder: Path) -> Weights:
    """Config and tensors of a model folder; ModelError where it cannot be used."""
    home = Path(folder)
    if not home.is_dir():
        raise ModelError("MODEL_MISSING", str(home), "no such folder", "check model.name")
    config = _read_config(home / "config.json")
    tensors = _read_tensors(home, config.family.prefix, _shapes(config))

    def pair(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def maybe(name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        return pair(name) if f"{name}.weight" in tensors else None

    layers = []
    for i in range(config.layers):
        at = {our: f"{config.family.layers}.{i}.{n}" for our, n in config.family.parts.items()}
        q, k, v = (pair(at.pop(name)) for name in "qkv")
        qkv = (torch.cat([q[0], k[0], v[0]]), torch.cat([q[1], k[1], v[1]]))
        layers.append(Layer(qkv=qkv, **{our: pair(name) for our, name in at.items()}))
    return Weights(
        config=config,
        token=tensors["embeddings.word_embeddings.weight"],
        segment=tensors.get("embeddings.token_type_embeddings.weight"),
        position=tensors["embeddings.position_embeddings.weight"][config.first :],
        norm=pair("embeddings.LayerNorm"),
        project=maybe("embeddings_project"),
        layers=tuple(layers),
        bias=tensors.get(config.family.bias),
        pooler=maybe("pooler.dense"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError("MODEL_MISSING", str(path), "no such file", "check model.name") from None
    except OSError as error:
        raise ModelError("MODEL_CORRUPT", str(path), f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise ModelError("MODEL_CORRUPT", str(path), "not JSON", "fetch the model again") from None
    if not isinstance(value, dict):
        raise ModelError("MODEL_CORRUPT", str(path), "not a JSON object")
    return value


def _read_config(path: Path) -> Config:
    """The checked fields of config.json."""
    raw = _read_json(path)
    if (why := why_not_ours(raw)) is not None:
        raise ModelError("MODEL_UNSUPPORTED", str(path), why, "our own forward knows plain BERT")
    family, raw = FAMILIES[raw["model_type"]], usual(raw)
    sizes = {name: raw.get(name, value) for name, value in (DEFAULTS | family.defaults).items()}
    eps = raw.get("layer_norm_eps", 1e-12)
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ModelError("MODEL_CORRUPT", str(path), f"{name} is {value!r}")
    if type(eps) not in (int, float) or not 0 <= eps < 1:
        raise ModelError("MODEL_CORRUPT", str(path), f"layer_norm_eps is {eps!r}")
    width, first = sizes["hidden_size"], first_position(raw)
    config = Config(
        *(sizes[name] for name in DEFAULTS),
        eps=float(eps),
        act=raw.get("hidden_act", "gelu"),
        table=raw.get("embedding_size", 128) if raw["model_type"] == "electra" else width,
        first=first,
        buckets=sizes.get("relative_attention_num_buckets", 0),
        family=family,
    )
    if config.width % config.heads:
        raise ModelError("MODEL_CORRUPT", str(path), "hidden_size is no multiple of the heads")
    if not 0 <= first < config.positions:
        raise ModelError("MODEL_CORRUPT", str(path), f"positions begin at {first}")
    return config


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder and its shape, under its name without the family's prefix."""
    width, inner, table, family = config.width, config.inner, config.table, config.family
    shapes = {
        "embeddings.word_embeddings.weight": (config.vocab, table),
        "embeddings.position_embeddings.weight": (config.positions, table),
    }
    if family.types:
        shapes["embeddings.token_type_embeddings.weight"] = (config.types, table)
    if family.bias:
        shapes[family.bias] = (config.buckets, config.heads)
    parts: dict[str, tuple[int, ...]] = {"embeddings.LayerNorm": (table,)}
    if family.pooler:
        parts["pooler.dense"] = (width, width)
    if table != width:
        parts["embeddings_project"] = (width, table)
    forms = {"up": (inner, width), "down": (width, inner), "norm_1": (width,), "norm_2": (width,)}
    for i in range(config.layers):
        for our, name in family.parts.items():
            parts[f"{family.layers}.{i}.{name}"] = forms.get(our, (width, width))
    for name, shape in parts.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _canonical(name: str, prefix: str) -> str:
    """A tensor's name without prefix, and with today's names for LayerNorm."""
    name = name.removeprefix(prefix)
    if name.endswith(("LayerNorm.gamma", "LayerNorm.beta")):
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        )
    return name


def _read_tensors(
    home: Path, prefix: str, shapes: dict[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """The named tensors as fp32 copies. The pooler may be absent; nothing else may, or be extra."""
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(home):
        tensors |= _read_file(path, prefix, shapes)
    missing = [name for name in shapes if name not in tensors]
    if missing and not all(name.startswith("pooler.") for name in missing):
        what = f"{len(missing)} tensors are missing: {missing[0]} …"
        raise ModelError("WEIGHTS_MISSING", str(home), what, "fetch the model again")
    if len(missing) == 1:  # half a pooler
        raise ModelError("WEIGHTS_MISSING", str(home), f"{missing[0]} is missing")
    return tensors


def _read_file(
    path: Path, prefix: str, shapes: dict[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """The checked tensors of one safetensors file."""
    again = "fetch the model again"
    try:
        with path.open("rb") as file:
            if file.read(len(LFS)) == LFS:
                do = "run `git lfs pull` in the model folder"
                raise ModelError("MODEL_CORRUPT", str(path), "a Git LFS pointer, not weights", do)
        with safe_open(path, framework="pt") as file:
            names = {_canonical(name, prefix): name for name in file.keys()}  # noqa: SIM118
            raw = {name: file.get_tensor(names[name]) for name in names if name.startswith(TRUNK)}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        what = f"not a whole safetensors file ({str(error).splitlines()[0][:120]})"
        raise ModelError("MODEL_CORRUPT", str(path), what, again) from None
    found = {}
    for name, tensor in raw.items():
        if name in BUFFERS:
            continue
        if name not in shapes:
            do = "config.json and the weights belong to different models"
            raise ModelError("WEIGHTS_UNEXPECTED", str(path), f"{name} has no place in it", do)
        if tuple(tensor.shape) != shapes[name]:
            what = f"{name} is {tuple(tensor.shape)}, config.json says {shapes[name]}"
            raise ModelError("WEIGHTS_SHAPE", str(path), what, again)
        if not tensor.is_floating_point():
            do = "quantized weights are not supported"
            raise ModelError("MODEL_UNSUPPORTED", str(path), f"{name} is {tensor.dtype}", do)
        # A copy: the file is only mapped, and may change or end under a running job.
        found[name] = tensor.to(torch.float32, copy=True)
        if not torch.isfinite(found[name]).all():
            raise ModelError("WEIGHTS_NOT_FINITE", str(path), f"{name} has NaN or infinity", again)
    return found


def no_head(folder: Path, name: str) -> ModelError:
    """What to say where a head's tensor is not in the weights: its random start is no answer."""
    do = "its head was not saved; use the model that was trained for this"
    return ModelError("HEAD_MISSING", str(folder), f"has no tensor {name}", do)
