"""Finds a model and reads what its files say of it, without torch.

A name is a folder here or in a bucket, `pkg://PACKAGE/PATH` (weights that a Python package ships;
the package is never imported) or a hub id. The digest covers every file that can change a vector
or an id.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedmill.pipeline.model.architectures import FAMILIES, count_types, first_position, usual
from embedmill.pipeline.model.claims import refuse_adapters, refuse_arguments
from embedmill.pipeline.model.fetch import fetch_folder
from embedmill.pipeline.model.sentence_folder import (
    NO_PROMPT,
    read_modules,
    read_object,
    read_prompts,
    read_sentence_config,
    weight_files,
)
from embedmill.pipeline.store.client import SCHEMES
from embedmill.schemas.errors import ModelError
from embedmill.schemas.terminal import say

DENSE_MARK = ">dense"  # behind a pooling: the model's dense layers follow it
ENDLESS = 1 << 30  # what tokenizers without a limit say is far above
OPTIONAL = {  # of config.json
    "model_type": str,
    "intermediate_size": int,
    "num_attention_heads": int,
    "max_position_embeddings": int,
    "type_vocab_size": int,
    "pad_token_id": int,
    "num_labels": int,
    "id2label": dict,
}
WORDS = {str: "a text", int: "an integer", dict: "an object"}
LFS = b"version https://git-lfs"
# Files that decide ids or vectors. A README in the folder must not change the fingerprint.
NAMES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "adapter_config.json",
    "adapter_model.safetensors",
)
FILES = (*NAMES, *(f"*_*/{name}" for name in NAMES))  # modules have folders: 1_Pooling, 2_Dense


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on this machine and what its files say."""

    name: str  # as it was asked for; of a folder here its whole path
    revision: str | None  # the hub commit
    root: Path  # what the name stands for
    folder: Path  # where config.json, weights and tokenizer are: root, or a folder in it
    digest: str  # sha256 over names and contents of FILES
    config: dict[str, Any]  # config.json, sizes also by their usual names
    parameters: int
    max_tokens: int  # the model's own
    positions: int  # tokens that a sequence may have at most
    types: int  # segment ids that it knows; 0: it has no segments
    dim: int
    pooling: str | None  # None: the folder does not say, or says one that we do not have
    normalize: bool
    dense: tuple[Path, ...] = ()  # layers after its own pooling
    dense_dim: int = 0
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    include_prompt: bool = True  # whether its pooling takes the prompt's tokens along

    def prompt(self, name: str) -> str:
        """The text of a prompt by its name; what is no name is a text itself."""
        return self.prompts.get(name, "" if name in NO_PROMPT else name)

    @property
    def document_prompt(self) -> str:
        """The prompt for a text of a corpus: the folder's document prompt, else its default one."""
        named = (self.prompts.get(name) for name in ("document", "passage", "corpus"))
        return next(filter(None, named), self.default_prompt)

    @property
    def flops_per_token(self) -> float:
        """Matrix work of one token of a short sequence, for estimates."""
        hidden = self.config["hidden_size"]
        inner = self.config.get("intermediate_size", 4 * hidden)
        return self.config["num_hidden_layers"] * (8 * hidden**2 + 4 * hidden * inner)


def open_model(name: str, revision: str | None = None) -> ModelFolder:
    """Resolves a model name; ModelError says what is missing or not supported."""
    root, commit = _locate(name, revision)
    modules = read_modules(root)
    home = modules.home
    refuse_adapters(root, home)
    refuse_arguments(home)
    config = _config(home / "config.json")
    parameters = sum(count_parameters(folder) for folder in (home, *modules.dense))
    own = own_length(home)
    # Ours have 512 positions where config.json is silent; others may have no table of them.
    table = config.get("max_position_embeddings") or 512 * (config.get("model_type") in FAMILIES)
    known = table - first_position(config)
    positions = known if known > 0 else own or 512
    prompts, default_prompt = read_prompts(root)
    here = commit is None and (name.startswith("file://") or "://" not in name)
    return ModelFolder(
        name=str(root) if here else name,
        revision=commit,
        root=root,
        folder=home,
        digest=_digest(root, [p for at in (home, *modules.dense) for p in weight_files(at)]),
        config=config,
        parameters=parameters,
        max_tokens=min(own or positions, positions),
        positions=positions,
        types=count_types(config),
        dim=config["hidden_size"],
        pooling=modules.pooling and modules.pooling + (DENSE_MARK if modules.dense else ""),
        normalize=modules.normalize,
        dense=modules.dense,
        dense_dim=modules.dense_dim,
        prompts=prompts,
        default_prompt=default_prompt,
        include_prompt=modules.include_prompt,
    )


def own_length(home: Path) -> int | None:
    """Tokens of a sequence as the folder says; None if it says nothing, or a number without end."""
    path = home / "tokenizer_config.json"
    config, said = read_object(path, {}), read_sentence_config(home).get("max_seq_length")
    if config.get("truncation_side", "right") != "right":
        what = f"cuts texts on the {config['truncation_side']}"
        do = "only their ends can be cut: set truncation_side to right"
        raise ModelError("MODEL_UNSUPPORTED", str(path), what, do)
    both = {"max_seq_length": said, "model_max_length": config.get("model_max_length")}
    for name, value in both.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and value >= 1):
            what = f"its {name} is {value!r}, and no number of tokens"
            raise ModelError("CONFIG_INVALID", str(home), what)
    own = next((value for value in both.values() if value is not None), None)
    return None if own is None or own > ENDLESS else int(own)


def warn_unpinned(model: ModelFolder, revision: str | None) -> None:
    """One line where another day may bring another model under the same name."""
    if model.revision and not revision:
        say(f"{model.name} is at {model.revision} today; pin it as model.revision")


def _config(path: Path) -> dict[str, Any]:
    """config.json with sizes by their usual names; ModelError if it is of no model of ours."""
    config = usual(read_object(path))
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if type(config.get(key)) is not int or config[key] < 1:
            raise ModelError("CONFIG_INVALID", str(path), f"has no integer {key}")
    for key, kind in OPTIONAL.items():
        if config.get(key) is not None and type(config[key]) is not kind:
            what = f"its {key} is {config[key]!r}, not {WORDS[kind]}"
            raise ModelError("CONFIG_INVALID", str(path), what)
    if str(config.get("position_embedding_type")).startswith("relative"):
        what = (
            f"position_embedding_type {config['position_embedding_type']}, ignored by transformers"
        )
        raise ModelError(
            "MODEL_UNSUPPORTED", str(path), what, "use a model with absolute positions"
        )
    return config


def _locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    if name.startswith("pkg://"):
        return _package_folder(name), None
    if name.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        return fetch_folder(name, FILES), None
    folder = Path(os.path.expanduser(name.removeprefix("file://")))  # which never raises
    if folder.is_dir():
        return folder.absolute(), None
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or "://" in name:
        raise ModelError("MODEL_MISSING", name, "no such folder", "check model.name")
    return _hub_folder(name, revision)


def _package_folder(name: str) -> Path:
    package, _, path = name.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise ModelError(
            "MODEL_MISSING", name, f"no Python package {package!r} is installed", "pip install it"
        )
    for root in spec.submodule_search_locations or []:
        if (folder := Path(root) / path).is_dir():
            return folder.absolute()
    raise ModelError("MODEL_MISSING", name, f"package {package!r} has no folder {path!r}")


def _hub_folder(name: str, revision: str | None) -> tuple[Path, str]:
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            "MODEL_MISSING",
            name,
            f"neither a folder here nor to be had from the hub ({reason})",
            "check model.name, the network, or fill the hub's cache first",
        ) from None
    return folder, folder.name  # snapshots/COMMIT


def count_parameters(folder: Path) -> int:
    """Numbers in the weights of a folder, by their headers, which are checked on the way."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for path in weight_files(folder):
        try:
            with path.open("rb") as raw:
                if raw.read(len(LFS)) == LFS:
                    do = "run `git lfs pull` in the model folder"
                    what = "is a Git LFS pointer, not weights"
                    raise ModelError("MODEL_CORRUPT", str(path), what, do)
            with safe_open(path, framework="numpy") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            what = str(error).splitlines()[0][:120]
            raise ModelError(
                "MODEL_CORRUPT",
                str(path),
                f"is not a whole safetensors file ({what})",
                "fetch the model again",
            ) from None
        count += sum(math.prod(shape) for shape in shapes)
    return count


def _digest(folder: Path, weights: list[Path]) -> str:
    hasher = hashlib.sha256()
    paths = {path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}
    others = {path for path in paths if path.suffix == ".safetensors"} - set(weights)
    for path in sorted(paths - others):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        hasher.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return hasher.hexdigest()
