"""Reads from a model's files what its heads give: how many labels, through which activation."""

from __future__ import annotations

from embedmill.pipeline.model.folder import ModelFolder
from embedmill.pipeline.model.sentence_folder import read_object
from embedmill.schemas.errors import ModelError

# classifiers and SPLADE: what is applied to logits, in sentence-transformers' folders and in ours
ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}
SPLADE = {"relu": "log1p_relu", "log1p_relu": "log1p_log1p_relu"}


def activation_of(model: ModelFolder, source: str) -> str:
    """What a head's logits go through, as sentence-transformers does it; ModelError if unknown."""
    if source == "scores":
        own = model.config.get("sentence_transformers")
        own = own if isinstance(own, dict) else {}
        st_config = read_object(model.root / "config_sentence_transformers.json", {})
        named = (
            own.get("activation_fn")
            or model.config.get("sbert_ce_default_activation_function")
            or st_config.get("activation_fn")
            or ("Sigmoid" if count_labels(model) == 1 else "Identity")
        )
        known, found = ACTIVATIONS, str(named).rpartition(".")[2]
    else:
        pooling = {}
        for path in model.root.glob("*_SpladePooling/config.json"):
            pooling = read_object(path)
        known, found = SPLADE, pooling.get("activation_function", "relu")
        if pooling.get("pooling_strategy", "max") != "max":
            found = f"{pooling['pooling_strategy']} over tokens"
    if found not in known:
        raise ModelError("MODEL_UNSUPPORTED", str(model.folder), f"its head wants {found}")
    return known[found]


def count_labels(model: ModelFolder) -> int:
    """What a sequence-classification head gives, as transformers counts it."""
    labels = model.config.get("id2label")
    return int(model.config.get("num_labels", 2)) if labels is None else len(labels)
