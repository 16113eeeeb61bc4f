"""Arrays to a device and values back, without making the host wait for the device.

A plain copy waits until the device has done all that it was given before, and leaves it with
nothing to do meanwhile. On the CPU all of this is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    """A copy on the device. The pinned memory in between is reused only when it is there."""
    tensor = torch.tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if is_cuda(device) else tensor


def is_cuda(device: str) -> bool:
    """Whether the device is a GPU."""
    return torch.device(device).type == "cuda"


class Landing:
    """Values on their way to the host."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self._values = {name: t.to("cpu", non_blocking=True) for name, t in values.items()}
        self._event = None
        if any(tensor.is_cuda for tensor in values.values()):
            self._event = torch.cuda.Event()
            self._event.record()

    def arrays(self) -> dict[str, np.ndarray]:
        """The values, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return {name: tensor.numpy() for name, tensor in self._values.items()}
