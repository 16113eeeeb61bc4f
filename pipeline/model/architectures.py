"""The architectures that our own forward knows, and how their folders name things.

A family is BERT with other names: of config.json's fields, of the tensors, of where positions
begin. A model of another family, or with an option that is not here, goes through transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")  # that our products take along
# Our name of a layer's part -> its name below `layers.N.`
BERT_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "out": "attention.output.dense",
    "norm_1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm_2": "output.LayerNorm",
}
MPNET_PARTS = BERT_PARTS | {
    "q": "attention.attn.q",
    "k": "attention.attn.k",
    "v": "attention.attn.v",
    "out": "attention.attn.o",
    "norm_1": "attention.LayerNorm",
}
DISTILBERT_PARTS = {
    "q": "attention.q_lin",
    "k": "attention.k_lin",
    "v": "attention.v_lin",
    "out": "attention.out_lin",
    "norm_1": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm_2": "output_layer_norm",
}


@dataclass(frozen=True, slots=True)
class Family:
    """What tells one architecture from BERT."""

    prefix: str = "bert."  # of the trunk's tensors in a model that was saved with a head
    layers: str = "encoder.layer"
    parts: Mapping[str, str] = field(default_factory=lambda: BERT_PARTS)
    types: bool = True  # has segment embeddings
    pooler: bool = True  # may have one
    offset: bool = False  # positions begin behind that of padding
    bias: str = ""  # the table of relative positions that is added to attention's scores
    defaults: Mapping[str, Any] = field(default_factory=dict)  # where config.json is silent


# model_type -> family
FAMILIES = {
    "bert": Family(),
    "roberta": Family("roberta.", offset=True, defaults={"vocab_size": 50265}),
    "xlm-roberta": Family("roberta.", offset=True),
    "camembert": Family("roberta.", offset=True),
    "electra": Family(
        "electra.",
        pooler=False,
        defaults={"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    ),
    "distilbert": Family(
        "distilbert.",
        layers="transformer.layer",
        parts=DISTILBERT_PARTS,
        types=False,
        pooler=False,
        defaults={"num_hidden_layers": 6},
    ),
    "mpnet": Family(
        "mpnet.",
        parts=MPNET_PARTS,
        types=False,
        offset=True,
        bias="encoder.relative_attention_bias.weight",
        defaults={"vocab_size": 30527, "relative_attention_num_buckets": 32},
    ),
}
# Other architectures whose position table has rows that no token gets.
OFFSETS = {name for name, family in FAMILIES.items() if family.offset} | {
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "roberta-prelayernorm",
    "xlm-roberta-xl",
    "xmod",
}
BY_LONGEST = ("longrope", "dynamic")  # rotary positions with other factors beyond some length
# the usual field of config.json -> what some architectures call it
FIELDS = {
    "hidden_size": ("dim", "d_model", "n_embd"),
    "num_hidden_layers": ("n_layers", "n_layer", "num_layers"),
    "num_attention_heads": ("n_heads", "n_head", "num_heads"),
    "intermediate_size": ("hidden_dim", "n_inner", "d_ff"),
    "max_position_embeddings": ("n_positions",),
    "hidden_act": ("activation", "activation_function"),
}


def usual(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the usual name beside every other name that a size goes by."""
    found = dict(config)
    for name, others in FIELDS.items():
        for other in others:
            if config.get(other) is not None:
                found.setdefault(name, config[other])
    return found


def first_position(config: Mapping[str, Any]) -> int:
    """The row of the position table that the first token gets: 0, or the one behind padding's."""
    padding = config.get("pad_token_id")
    return (1 if padding is None else padding) + 1 if config.get("model_type") in OFFSETS else 0


def by_longest(config: Mapping[str, Any]) -> bool:
    """Whether the longest sequence of a batch decides about the positions of all of it."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = [found, *(inner for inner in found.values() if isinstance(inner, dict))]
    return any(kind.get("rope_type", kind.get("type")) in BY_LONGEST for kind in kinds)


def why_not_ours(config: Mapping[str, Any]) -> str | None:
    """What keeps a model from our own forward; None if nothing does."""
    config = usual(config)
    if config.get("model_type") not in FAMILIES:
        return f"architecture {config.get('model_type') or config.get('architectures')}"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"position_embedding_type {config['position_embedding_type']}"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "a decoder"
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        return f"hidden_act {config['hidden_act']}"
    return None


def count_types(config: Mapping[str, Any]) -> int:
    """Segment ids that a model knows; 0 if it has no segments."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is not None and not family.types:
        return 0
    return int(config.get("type_vocab_size", 0 if family is None else 2) or 0)
