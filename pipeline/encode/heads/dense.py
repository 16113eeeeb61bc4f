"""Dense layers that a sentence-transformers model has after its pooling, in fp32.

Of a sequence they see one vector, so that their speed is nothing and their precision all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from embedmill.pipeline.encode.linear import Linear
from embedmill.schemas.errors import ModelError

# the class that config.json names -> what it does
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Tanh": torch.tanh,
    "Identity": lambda x: x,
    "GELU": nn.functional.gelu,
    "ReLU": torch.relu,
    "SiLU": nn.functional.silu,
    "Sigmoid": torch.sigmoid,
}


class Dense:
    """act(x W^T + b), with the residual where the layer has one: (S, K) -> (S, N) fp32."""

    def __init__(self, folder: Path, device: str) -> None:
        config = json.loads((folder / "config.json").read_bytes())
        name = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        self.act = ACTIVATIONS[name]
        size_in, size_out = config["in_features"], config["out_features"]
        shapes = {"linear.weight": (size_out, size_in)}
        if config.get("bias", True):
            shapes["linear.bias"] = (size_out,)
        self.skips = bool(config.get("use_residual"))
        if self.skips and size_in != size_out:
            shapes["residual.weight"] = (size_out, size_in)
        tensors = {n: t.to(device) for n, t in _read(folder, shapes).items()}
        zeros = torch.zeros(size_out, device=device)
        self.size = size_in
        self.linear = Linear(tensors["linear.weight"], tensors.get("linear.bias", zeros))
        skip = tensors.get("residual.weight")
        self.skip = (lambda x: x) if skip is None else Linear(skip, zeros)

    @torch.inference_mode()
    def __call__(self, x_SK: torch.Tensor) -> torch.Tensor:
        if x_SK.shape[1] != self.size:
            what = f"a dense layer takes {self.size} values, not {x_SK.shape[1]}"
            raise ModelError("WEIGHTS_SHAPE", "model", what, "fetch the model again")
        found_SN = self.act(self.linear(x_SK))
        return found_SN + self.skip(x_SK) if self.skips else found_SN


def read_dense(folders: Sequence[Path], device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The layers of a model, one after the other."""
    layers = [Dense(folder, device) for folder in folders]

    def apply(x_SK: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x_SK = layer(x_SK)
        return x_SK

    return apply


def _read(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The named tensors in fp32; ModelError if one is missing, misshapen or not finite."""
    path, again = folder / "model.safetensors", "fetch the model again"
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        what = f"not a whole safetensors file ({str(error).splitlines()[0][:120]})"
        raise ModelError("MODEL_CORRUPT", str(path), what, again) from None
    if tensors.keys() != shapes.keys():
        what = f"has {sorted(tensors)}, config.json says {sorted(shapes)}"
        raise ModelError("WEIGHTS_MISSING", str(path), what, again)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            what = f"{name} is {tuple(tensor.shape)}, config.json says {shapes[name]}"
            raise ModelError("WEIGHTS_SHAPE", str(path), what, again)
        if not torch.isfinite(tensor).all():
            raise ModelError("WEIGHTS_NOT_FINITE", str(path), f"{name} has NaN or infinity", again)
    return {name: tensor.float() for name, tensor in tensors.items()}
