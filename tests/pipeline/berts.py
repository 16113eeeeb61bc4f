"""Random BERTs as folders, packs of random ids, and what transformers makes of them."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode.load import load_encoder
from embedmill.schemas.errors import ModelError

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))
THREADS = 2
SHAPE = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # large: a missing segment or position must show
}


def save_bert(folder: Path, **changes) -> BertModel:
    """Saves a random BERT in fp32 and returns it in fp64, so that all rounding seen is ours."""
    torch.manual_seed(7)
    model = BertModel(BertConfig(**{**SHAPE, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # transformers starts them at 0, where a lost bias hides
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return model.double()


def load(folder: Path, precision: str = "exact"):
    return load_encoder(folder, device="cpu", precision=precision, threads=THREADS)


def make_pack(lengths: list[int], seconds: list[int] | None = None) -> Pack:
    ids_T = np.random.default_rng(3).integers(1, 99, sum(lengths)).astype(np.int32)
    cu_S1 = np.concatenate([[0], np.cumsum(lengths)])
    return Pack(ids_T, cu_S1, np.array(seconds or lengths, dtype=np.int32))


@torch.inference_mode()
def reference(model: BertModel, pack: Pack):
    """Per sequence, from one padded batch: hidden_states[0], last_hidden_state, pooler_output."""
    lengths_S = pack.lengths_S
    shape = (len(lengths_S), int(lengths_S.max()))
    ids, types, mask = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for s, (begin, end) in enumerate(pairwise(pack.cu_S1)):
        ids[s, : end - begin] = torch.tensor(pack.ids_T[begin:end])
        types[s, : end - begin] = torch.tensor(pack.types_T[begin:end])
        mask[s, : end - begin] = 1
    out = model(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
    keep = mask.bool()
    return out.hidden_states[0][keep], out.last_hidden_state[keep], out.pooler_output


def error_of(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value
