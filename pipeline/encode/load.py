"""Which engine runs, and how it is loaded. Importing this file does not import torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedmill.pipeline.model.architectures import FAMILIES
from embedmill.schemas.errors import ModelError

if TYPE_CHECKING:
    import torch

    from embedmill.pipeline.contracts import Encoder, Heads

# (device class, precision) -> the dtype of products and attention; the rest is fp32 always. For
# int8 the dtype of attention and heads: the products of layers are rounded further.
DTYPES = {
    ("cpu", "exact"): "float32",
    ("cpu", "fast"): "bfloat16",
    ("cpu", "int8"): "bfloat16",
    ("cuda", "exact"): "float32",
    ("cuda", "fast"): "float16",
}


def check_engine(folder: Path, device: str, precision: str) -> None:
    """ModelError if no engine runs this model on such a device in this precision."""
    kind = device.partition(":")[0]
    if kind not in {known for known, _ in DTYPES}:
        do = "choose one of cpu, cuda"
        raise ModelError("DEVICE_UNSUPPORTED", device, "there is no engine for it", do)
    if (kind, precision) not in DTYPES:
        do = "choose " + " or ".join(p for known, p in DTYPES if known == kind)
        raise ModelError("PRECISION_UNSUPPORTED", device, f"no precision {precision}", do)
    if precision == "int8" and not is_ours(folder):
        what, do = "int8 is for BERT and its kin", "choose exact or fast"
        raise ModelError("PRECISION_UNSUPPORTED", str(folder), what, do)


def load_encoder(folder: Path, *, device: str, precision: str, threads: int) -> Encoder:
    """An encoder with its weights, and torch set so that equal packs give equal bits.

    Our own forward for the families that it knows, else transformers' model: over packs if that
    proves right, padded if not.
    threads: of this process; part of the plan, because the order of a sum depends on it.
    """
    check_engine(folder, device, precision)
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError("DEVICE_MISSING", device, "torch sees no such device", "check the driver")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
    if is_ours(folder):
        return _ours(Path(folder), device, precision, threads)
    from embedmill.pipeline.encode.auto import AutoEncoder

    return AutoEncoder(Path(folder), device, getattr(torch, DTYPES[kind, precision]))


def _ours(folder: Path, device: str, precision: str, threads: int) -> Encoder:
    """Our own forward: kernels on a GPU, C on a CPU, torch's operators where neither is."""
    import torch

    from embedmill.pipeline.encode import cpu, cuda, proof
    from embedmill.pipeline.encode.bert import PackedBert
    from embedmill.pipeline.encode.weights import read_weights

    weights, kind = read_weights(folder), device.partition(":")[0]
    if kind == "cuda" and precision == "fast" and cuda.fits(weights):
        return cuda.PackedCuda(weights, device, torch.float16)
    if kind == "cpu" and (isa := proof.isa(weights, precision)):
        return cpu.PackedNative(weights, precision, threads, isa)
    dtype = getattr(torch, DTYPES[kind, precision])
    return PackedBert(weights, device, dtype, rounds=precision == "int8")


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
    from embedmill.pipeline.encode.heads.dense import read_dense

    return read_dense(folders, device)


def load_heads(folder: Path, sources: Iterable[str], *, device: str, precision: str) -> Heads:
    """The heads for columns of source scores and sparse, on an encoder's device.

    ModelError for a head that the folder does not have.
    """
    import torch

    from embedmill.pipeline.contracts import Heads
    from embedmill.pipeline.encode.heads.ours import Classifier, MaskedLM, Tensors

    folder, dtype = Path(folder), getattr(torch, DTYPES[device.partition(":")[0], precision])
    tensors = Tensors(folder)
    if (kind := str(tensors.config.get("model_type"))) not in FAMILIES:
        from embedmill.pipeline.encode.heads.auto import AutoClassifier, AutoMaskedLM

        return Heads(
            scores=AutoClassifier(folder, device) if "scores" in sources else None,
            token_logits=AutoMaskedLM(folder, device, dtype) if "sparse" in sources else None,
        )
    return Heads(
        scores=Classifier(tensors, kind, device) if "scores" in sources else None,
        token_logits=MaskedLM(tensors, kind, device, dtype) if "sparse" in sources else None,
    )
