"""CUDA graphs: a forward pass recorded once for each shape of pack, then replayed as one launch.

A small model's pass is some fifty launches of a few microseconds each, which Python cannot give a
GPU as fast as it does them. A recorded pass has fixed sizes: packs are filled up to one of few.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from embedmill.pipeline.batches import Pack

LEAST_TOKENS, LEAST_SEQUENCES, LEAST_LONGEST = 256, 16, 32


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a recorded pass, powers of two: what a pack is filled up to."""

    tokens: int  # T
    sequences: int  # N: S and some empty ones
    longest: int  # tokens of the longest sequence

    @classmethod
    def of(cls, pack: Pack) -> Shape:
        """The smallest that a pack fits into."""
        lengths_S = pack.lengths_S
        return cls(
            _power(len(pack.ids_T), LEAST_TOKENS),
            _power(len(lengths_S), LEAST_SEQUENCES),
            _power(int(lengths_S.max()), LEAST_LONGEST),
        )

    def fill(self, pack: Pack, flat: np.ndarray) -> None:
        """Writes a pack as ids (T), offsets (N + 1) and seconds (N), int32, one after the other.

        Ids behind the last sequence stay what they are: no sequence has them. Empty sequences
        begin and end where the last one ends.
        """
        ids_T, cu_N1, second_N = np.split(flat, np.cumsum([self.tokens, self.sequences + 1]))
        ids_T[: len(pack.ids_T)] = pack.ids_T
        cu_N1[: len(pack.cu_S1)] = pack.cu_S1
        cu_N1[len(pack.cu_S1) :] = pack.cu_S1[-1]
        second_N[: len(pack.second_S)] = pack.second_S
        second_N[len(pack.second_S) :] = 0

    def split(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The inverse of fill: ids_T, cu_N1, second_N as views."""
        return flat.split([self.tokens, self.sequences + 1, self.sequences])

    @property
    def inputs(self) -> int:
        """How many int32 values `fill` writes."""
        return self.tokens + 2 * self.sequences + 1


def _power(size: int, least: int) -> int:
    return max(least, 1 << (size - 1).bit_length())


Forward = Callable[[torch.Tensor, Shape], tuple[torch.Tensor, ...]]


class Graphs:
    """Runs a forward pass through the graph of its shape, recording it the first time."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._side, self._lock = torch.cuda.Stream(), threading.Lock()
        self.forget()

    def __call__(self, inputs: torch.Tensor, shape: Shape) -> tuple[torch.Tensor, ...]:
        """What forward gives for these inputs, in memory of its own."""
        with self._lock:  # threads share the memory that a graph reads and writes
            if shape not in self._recorded:
                self._recorded[shape] = self._record(inputs, shape)
            graph, static, found = self._recorded[shape]
            static.copy_(inputs)
            graph.replay()
            return tuple(one.clone() for one in found)

    def forget(self) -> None:
        """Gives the memory of all graphs back. Their pool is not to be used again."""
        with self._lock:
            self._recorded: dict[Shape, tuple[torch.cuda.CUDAGraph, torch.Tensor, tuple]] = {}
            self._pool = torch.cuda.graph_pool_handle()

    def _record(self, inputs: torch.Tensor, shape: Shape) -> tuple:
        """What torch.cuda.graph does, without emptying torch's caches for every shape."""
        static, graph, here = inputs.clone(), torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            self._forward(static, shape)  # libraries choose and compile kernels before the record
            # Another thread may copy and allocate meanwhile, on a stream of its own.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                found = self._forward(static, shape)
            except BaseException:
                with contextlib.suppress(RuntimeError):  # it says that the record is broken
                    graph.capture_end()
                raise
            graph.capture_end()
        here.wait_stream(self._side)
        return graph, static, found
