"""What a sentence-transformers folder says beside its weights: modules, pooling, heads, prompts.

A chain of modules is understood if it is a transformer, then a pooling, then any number of dense
layers, then at most one normalization. Everything else is refused; a plain folder has no chain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedmill.schemas.errors import ModelError

# sentence-transformers' pooling mode -> ours, in the order in which it joins several modes
POOLINGS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
# The flags that its folders had before; not all are spelled like the mode.
POOLING_FLAGS = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"} | {
    "weightedmean": "weightedmean_tokens"
}
NO_PROMPT = ("query", "document")  # names that are prompts without a text where a folder has none
# What must not say in a second place how long a sequence may be, or where it is cut.
CUTS = {"max_length", "model_max_length", "truncation", "truncation_side"}
TRANSFORMERS = ("Transformer", "MLMTransformer")
AFTER = ("Pooling", "SpladePooling", "Dense", "Normalize")  # in this order
OURS = "sentence_transformers."  # a class of any other package is code that a folder brings
# What Dense may apply, as torch names its classes; sentence-transformers takes Tanh by default.
DENSE = ("Tanh", "Identity", "GELU", "ReLU", "SiLU", "Sigmoid")


@dataclass(frozen=True, slots=True)
class Modules:
    """A sentence-transformers folder; of a plain one only `home` says something."""

    home: Path  # where the transformer's own files are: the folder, or one below it
    pooling: str | None = None  # None: not said, or one that we do not have
    normalize: bool = False
    dense: tuple[Path, ...] = ()  # folders of dense layers, applied after pooling
    dense_dim: int = 0  # what the last of them gives
    include_prompt: bool = True  # false: the pooling leaves a prompt's tokens out


def read_modules(folder: Path) -> Modules:
    """The chain of a folder; ModelError for one that is not understood."""
    path = folder / "modules.json"
    if not path.exists():
        return Modules(folder)
    listed = read_json(path)
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ModelError("CONFIG_INVALID", str(path), "is no list of modules")
    home, pooling, normalize, dense, dense_dim, last = folder, None, False, [], 0, -1
    include = True
    for number, module in enumerate(listed):
        name, where = str(module.get("type", "")), _folder_of(module, path)
        kind = name.rpartition(".")[2] if name.startswith(OURS) else ""
        if number == 0 and kind in TRANSFORMERS:
            home = where
            continue
        place = AFTER.index(kind) if number and kind in AFTER else -1
        if place < last or place < 0 or (place == last and kind != "Dense"):
            own = "" if name.startswith(OURS) else "; a model's own code is never run"
            what = f"module {number} is {name!r}, which is not supported there{own}"
            raise ModelError("MODEL_UNSUPPORTED", str(path), what)
        last = place
        if kind == "Pooling":
            pooling = _pooling(where)
            include = read_object(where / "config.json").get("include_prompt") is not False
        elif kind == "Dense":
            dense.append(where)
            dense_dim = _dense(where)
        elif kind == "Normalize":
            normalize = True
    if dense and pooling is None:
        raise ModelError("MODEL_UNSUPPORTED", str(path), "has dense layers, but no pooling")
    return Modules(home, pooling, normalize, tuple(dense), dense_dim, include)


def read_prompts(folder: Path) -> tuple[dict[str, str], str]:
    """The prompts by name, and the text of the default one. An empty one is a prompt, too."""
    path = folder / "config_sentence_transformers.json"
    config = read_object(path, {})
    named, default = config.get("prompts") or {}, config.get("default_prompt_name") or None
    if not isinstance(named, dict) or not all(isinstance(t, str | None) for t in named.values()):
        raise ModelError("CONFIG_INVALID", str(path), "its prompts are no object of texts")
    named = {name: text or "" for name, text in named.items()}
    if default is not None and default not in [*named, *NO_PROMPT]:
        what = f"its default_prompt_name {default!r} is none of its prompts"
        raise ModelError("CONFIG_INVALID", str(path), what)
    return named, named.get(default, "")


def read_sentence_config(home: Path) -> dict[str, Any]:
    """What sentence-transformers keeps of a transformer; old folders name it by architecture."""
    for path in sorted(home.glob("sentence_*_config.json")):
        config = read_object(path)
        for name in ("processing_kwargs", "processor_kwargs", "tokenizer_args", "model_kwargs"):
            if found := sorted(_keys(config.get(name)) & CUTS):
                what = f"sets {', '.join(found)} in {name}, which is not supported there"
                raise ModelError("MODEL_UNSUPPORTED", str(path), what, "set max_seq_length")
        return config
    return {}


def _keys(value: Any) -> set[str]:
    """The keys of an object and of all objects in it."""
    inner = value if isinstance(value, dict) else {}
    return set(inner).union(*map(_keys, inner.values()))


def _folder_of(module: dict[str, Any], path: Path) -> Path:
    """Where a module's files are; ModelError for a place that the model's digest does not cover."""
    name = str(module.get("path") or "").removesuffix("/").removeprefix("./")
    name = "" if name == "." else name
    if "/" in name or (name and "_" not in name):
        what = f"has a module in {name!r}; they are in the folder itself or in one like 1_Pooling"
        raise ModelError("MODEL_UNSUPPORTED", str(path), what)
    return path.parent / name


def weight_files(home: Path) -> list[Path]:
    """The safetensors files that a folder says are its weights, and no other that lies there."""
    single, index = home / "model.safetensors", home / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        what, do = "has no model.safetensors", "save the model with safetensors"
        do = f"pickled weights are never loaded; {do}"
        raise ModelError("MODEL_MISSING", str(home), what, do)
    listed = read_json(index)
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise ModelError("MODEL_CORRUPT", str(index), "has no weight_map")
    if any(Path(name).name != name for name in names.values()):
        raise ModelError("MODEL_CORRUPT", str(index), "names a file outside the folder")
    paths = [home / name for name in sorted(set(names.values()))]
    for path in paths:
        if not path.exists():
            do = "fetch the model again"
            raise ModelError("WEIGHTS_MISSING", str(path), "no such file", do)
    return paths


def _pooling(folder: Path) -> str | None:
    """The poolings of a sentence-transformers folder, joined by "+"; None: one we do not have."""
    config = read_object(folder / "config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        flags = {mode: f"pooling_mode_{POOLING_FLAGS.get(mode, mode)}" for mode in POOLINGS}
        modes = [mode for mode, flag in flags.items() if config.get(flag)] or ["mean"]
    modes = modes if isinstance(modes, list) else [modes]
    if not all(isinstance(mode, str) for mode in modes):
        where = str(folder / "config.json")
        raise ModelError("CONFIG_INVALID", where, "its pooling_mode is no text")
    return "+".join(POOLINGS[mode] for mode in modes) if set(modes) <= POOLINGS.keys() else None


def _dense(folder: Path) -> int:
    """What a dense layer gives; ModelError for one that we cannot apply."""
    path = folder / "config.json"
    config = read_object(path)
    act = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    inputs = {config.get(f"module_{way}_name") for way in ("input", "output")}
    if act not in DENSE or not inputs <= {None, "sentence_embedding"}:
        raise ModelError("MODEL_UNSUPPORTED", str(path), f"a dense layer of {act} over {inputs}")
    if not isinstance(config.get("out_features"), int):
        raise ModelError("CONFIG_INVALID", str(path), "has no integer out_features")
    return config["out_features"]


def read_object(path: Path, missing: Any = None) -> dict[str, Any]:
    """The object in a JSON file; `missing` if there is none, or else a ModelError."""
    value = read_json(path, missing)
    if not isinstance(value, dict):
        raise ModelError("CONFIG_INVALID", str(path), "is no JSON object")
    return value


def read_json(path: Path, missing: Any = None) -> Any:
    """The value in a JSON file; `missing` if there is none, or else a ModelError."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise ModelError(
            "MODEL_MISSING", str(path), "no such file", "is this a model folder?"
        ) from None
    except (OSError, ValueError) as error:
        what = str(error).splitlines()[0][:200]
        raise ModelError("CONFIG_INVALID", str(path), f"not JSON: {what}") from None
