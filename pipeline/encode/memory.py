"""What becomes of a pack that the device has no memory for: its halves are run instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from embedmill.schemas.errors import ModelError

if TYPE_CHECKING:
    from embedmill.pipeline.batches import Pack
    from embedmill.pipeline.contracts import Loaded

Found = TypeVar("Found")


def within_memory(
    loaded: Loaded, pack: Pack, work: Callable[[Pack], Found]
) -> list[tuple[Pack, Found]]:
    """The pack and work(pack); or several packs in its place, each with half of the tokens or less.

    `loaded.memory` keeps what was too much, and the engine's facts say so: bits may differ from
    those of whole packs. ModelError if a single sequence does not fit.
    """
    waiting, done = [pack], []
    while waiting:
        part = waiting.pop(0)
        sequences = len(part.second_S)
        if sequences > 1 and len(part.ids_T) > loaded.memory.most_tokens:
            waiting[:0] = _halves(part)
            continue
        try:
            done.append((part, work(part)))
        except torch.OutOfMemoryError:
            if sequences == 1:
                what = f"its memory does not hold one sequence of {len(part.ids_T)} tokens"
                do = "lower model.max_tokens, or use a larger device"
                raise ModelError("MEMORY", loaded.engine["device"], what, do) from None
            loaded.memory.most_tokens = len(part.ids_T) // 2
            waiting.insert(0, part)
        # Outside of the handler: the error's traceback holds what was allocated until then.
        if waiting and waiting[0] is part and torch.cuda.is_available():
            torch.cuda.empty_cache()
    return done


def _halves(pack: Pack) -> list[Pack]:
    """Both with about half of the tokens, and none without a sequence."""
    sequences = len(pack.second_S)
    middle = int(pack.cu_S1.searchsorted(pack.cu_S1[-1] / 2))
    middle = min(max(middle, 1), sequences - 1)
    return [pack.part(0, middle), pack.part(middle, sequences)]
