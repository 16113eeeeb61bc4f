"""Which engine runs, and how it is loaded. Importing this file does not import torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.families import FAMILIES
from schemas.errors import ModelError

if TYPE_CHECKING:
    import torch

    from pipeline.encode.encoder import Encoder
    from pipeline.encode.heads import Heads

# device class -> the engine path: part of the plan, so that every runner uses the same one
PATHS = {"cpu": "packed-runs", "cuda": "packed-runs"}
# (device class, precision) -> the dtype of products and attention; the rest is fp32 always
DTYPES = {
    ("cpu", "exact"): "float32",
    ("cpu", "fast"): "bfloat16",
    ("cuda", "exact"): "float32",
    ("cuda", "fast"): "float16",
}


def engine_path(device: str) -> str:
    """The name of the path that an encoder on this device class takes."""
    kind = device.partition(":")[0]
    if kind not in PATHS:
        do = f"choose one of {', '.join(PATHS)}"
        raise ModelError("DEVICE_UNSUPPORTED", device, "there is no engine for it", do)
    return PATHS[kind]


def load_encoder(folder: Path, *, device: str, precision: str, threads: int) -> Encoder:
    """An encoder with its weights, and torch set so that equal packs give equal bits.

    Our own forward for the families that it knows, else transformers' model: over packs if that
    proves right, padded if not.
    threads: of this process; part of the plan, because the order of a sum depends on it.
    """
    engine_path(device)
    # Threads that spin while they wait take the core from the thread they wait for: two encoders
    # on two cores lost nine tenths to it. OpenMP reads this once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    kind = device.partition(":")[0]
    if (kind, precision) not in DTYPES:
        do = "choose exact or fast"
        raise ModelError("PRECISION_UNSUPPORTED", device, f"no precision {precision}", do)
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError("DEVICE_MISSING", device, "torch sees no such device", "check the driver")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
    dtype = getattr(torch, DTYPES[kind, precision])
    if is_ours(folder):
        from pipeline.encode import cuda
        from pipeline.encode.bert import PackedBert
        from pipeline.encode.weights import read_weights

        weights = read_weights(Path(folder))
        fast_on_gpu = kind == "cuda" and precision == "fast" and cuda.fits(weights)
        return (cuda.PackedCuda if fast_on_gpu else PackedBert)(weights, device, dtype)
    from pipeline.encode.auto import AutoEncoder

    return AutoEncoder(Path(folder), device, dtype)


def is_ours(folder: Path) -> bool:
    """Whether our own forward knows the architecture. A broken folder is ours to refuse."""
    try:
        config = json.loads((Path(folder) / "config.json").read_bytes())
    except (OSError, ValueError):
        return True
    return not isinstance(config, dict) or config.get("model_type") in FAMILIES


def device_memory(device: str) -> float:
    """Free bytes of a GPU; no limit for a device that shares the machine's memory."""
    if device.partition(":")[0] != "cuda":
        return math.inf
    import torch

    return torch.cuda.mem_get_info(device)[0] if torch.cuda.is_available() else math.inf


def load_tail(folders: Sequence[Path], device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The dense layers behind a model's own pooling."""
    from pipeline.encode.dense import read_dense

    return read_dense(folders, device)


def load_heads(folder: Path, sources: Iterable[str], *, device: str, precision: str) -> Heads:
    """The heads for columns of source scores and sparse, beside an encoder of the same device."""
    import torch

    from pipeline.encode.heads import read_heads

    dtype = getattr(torch, DTYPES[device.partition(":")[0], precision])
    return read_heads(Path(folder), sources, device, dtype)
