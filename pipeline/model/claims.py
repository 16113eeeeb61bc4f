"""Refuses what a model's folder claims and we do not do: by name, with its file.

The reference reads the same files, so that a fault shared with it would be seen by no comparison.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedmill.pipeline.model.sentence_folder import CUTS, read_object
from embedmill.schemas.errors import ModelError

ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# Objects of sentence_bert_config.json whose keys go to the model's config or class, or to its
# tokenizer: applied nowhere here.
ARGUMENTS = (
    "config_args", "config_kwargs", "model_args", "model_kwargs", "tokenizer_args",
    "tokenizer_kwargs", "processor_kwargs", "processing_kwargs",
)  # fmt: skip
# Keys of these that move no vector: how weights are held, where they come from, what is not run.
HARMLESS = {
    "add_pooling_layer", "attn_implementation", "cache_dir", "device_map", "dtype",
    "local_files_only", "low_cpu_mem_usage", "padding", "padding_side", "return_tensors",
    "revision", "token", "torch_dtype", "trust_remote_code", "unpad_inputs", "use_fast",
    "use_memory_efficient_attention", "use_safetensors", "weights_only",
}  # fmt: skip
PROJECTED = ("HF_ColBERT", "ColBERT", "ColBERTModel")  # classes with a projection of token vectors


def refuse_adapters(*folders: Path) -> None:
    """ModelError for an adapter beside the weights: without it they are another model's."""
    for folder in dict.fromkeys(folders):
        for name in ADAPTERS:
            if (folder / name).exists():
                what = "is an adapter, which is not applied"
                do = "merge it into the weights (peft: merge_and_unload) and save the model"
                raise ModelError("MODEL_UNSUPPORTED", str(folder / name), what, do)


def refuse_arguments(home: Path) -> None:
    """ModelError for arguments that sentence-transformers would hand on, and we do not."""
    for path in sorted(home.glob("sentence_*_config.json")):
        config = read_object(path)
        for name in ARGUMENTS:
            if found := sorted(_leaves(config.get(name)) - HARMLESS - CUTS):
                what = f"hands {', '.join(found)} to the model in {name}, which is not applied"
                do = "write it into config.json or tokenizer_config.json and save the model"
                raise ModelError("MODEL_UNSUPPORTED", str(path), what, do)


def _leaves(value: Any) -> set[str]:
    """The keys of an object whose values are no objects, and of all objects in it."""
    found: set[str] = set()
    for key, inner in value.items() if isinstance(value, dict) else ():
        found |= _leaves(inner) if isinstance(inner, dict) else {key}
    return found


def refuse_projection(folder: Path, config: dict[str, Any]) -> None:
    """ModelError for token vectors of a model that projects them: its states are not these."""
    named = [str(name) for name in config.get("architectures") or []]
    if found := next((name for name in named if name in PROJECTED), None):
        what = f"is {found}: its token vectors need its projection, markers and skip list"
        do = "pooling: tokens is for plain encoders; choose another pooling or model"
        raise ModelError("MODEL_UNSUPPORTED", str(folder / "config.json"), what, do)


def refuse_missing_ends(folder: Path, before: list[str], after: list[str]) -> None:
    """ModelError where tokenizer_config.json promises BOS or EOS and tokenizer.json has none.

    `before`, `after`: the special tokens around a text, as words. What such a model was trained
    with cannot be told from its files.
    """
    path = folder / "tokenizer_config.json"
    config = read_object(path, {})
    for key, name, there in (
        ("add_bos_token", "bos_token", before),
        ("add_eos_token", "eos_token", after),
    ):
        word = config.get(name)
        word = word.get("content") if isinstance(word, dict) else word
        if config.get(key) is True and isinstance(word, str) and word not in there:
            what = f"says {key}: true, and tokenizer.json puts no {word!r} there"
            do = "save tokenizer.json with it, or set the key to false, as the model was trained"
            raise ModelError("TOKENIZER_CLAIMS", str(path), what, do)
