"""A device without memory for a pack gets smaller ones; nothing is lost, and the engine says so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.contracts import Loaded
from embedmill.pipeline.encode.memory import within_memory
from embedmill.schemas.errors import ModelError
from tests.pipeline.berts import make_pack


def small_device(room: int):
    """An encoder on a device with memory for so many tokens, and its work: the ids of a pack."""
    encoder = SimpleNamespace(engine={"device": "cuda"}, tried=[])
    loaded = Loaded(encoder, lambda: loaded)

    def work(pack: Pack) -> list[int]:
        encoder.tried.append(len(pack.ids_T))
        if len(pack.ids_T) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pack.ids_T.tolist()

    return loaded, work


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(40, 400))
def test_every_sequence_is_encoded_once_in_order(lengths: list[int], room: int):
    loaded, work = small_device(room)
    pack = make_pack(lengths)
    done = within_memory(loaded, pack, work)
    assert pack.ids_T.tolist() == [n for _, ids in done for n in ids]
    assert lengths == [n for part, _ in done for n in part.lengths_S.tolist()]
    assert all(0 < len(ids) <= room for _, ids in done)
    assert ("most_tokens" in loaded.engine) == (sum(lengths) > room)


def test_what_was_too_much_is_not_tried_again():
    loaded, work = small_device(100)
    within_memory(loaded, make_pack([30] * 8), work)
    assert [240, 120, 60, 60, 60, 60] == loaded.encoder.tried
    within_memory(loaded, make_pack([30] * 8), work)
    assert [60] * 4 == loaded.encoder.tried[6:]
    assert "60" == loaded.engine["most_tokens"]


def test_one_sequence_that_does_not_fit_is_the_models_error():
    loaded, work = small_device(20)
    with pytest.raises(ModelError, match="30 tokens") as caught:
        within_memory(loaded, make_pack([2, 30]), work)
    assert "MEMORY" == caught.value.code


def test_other_errors_pass_through():
    loaded, _ = small_device(20)
    with pytest.raises(ZeroDivisionError):
        within_memory(loaded, make_pack([2, 30]), lambda pack: 1 / 0)
