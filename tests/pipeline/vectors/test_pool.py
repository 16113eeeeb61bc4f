"""Poolings, cut, normalisation, cast and the guard, against plain loops."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from embedmill.pipeline.vectors import pool as room
from embedmill.pipeline.vectors.pool import faulty, finish, pool
from embedmill.schemas.plan import VectorColumn

CU_S1 = np.array([0, 1, 4, 4 + 7, 4 + 7 + 512])


def states() -> torch.Tensor:
    return torch.randn(int(CU_S1[-1]), 24, generator=torch.Generator().manual_seed(1)) - 0.5


def column(**changes) -> VectorColumn:
    fields = {"name": "vector", "source": "encoder", "pooling": "mean", "normalize": True}
    fields |= {"dtype": "float32", "dim": 24, "full_dim": 24}
    return VectorColumn(**(fields | changes))


@pytest.mark.parametrize(
    ("pooling", "of_one"),
    [
        ("cls", lambda states_LD: states_LD[0]),
        ("pooler", lambda states_LD: torch.tanh(states_LD[0])),
        ("mean", lambda states_LD: states_LD.double().mean(dim=0).float()),
        ("max", lambda states_LD: states_LD.max(dim=0).values),
        ("last", lambda states_LD: states_LD[-1]),
    ],
)
def test_every_pooling_is_its_definition(pooling, of_one):
    hidden_TD = states()
    got = pool(hidden_TD, CU_S1, pooling, torch.tanh)
    want = [of_one(hidden_TD[a:b]) for a, b in zip(CU_S1[:-1], CU_S1[1:], strict=True)]
    assert got.dtype == torch.float32
    assert (got - torch.stack(want)).abs().max() < 1e-6
    again = pool(hidden_TD, CU_S1, pooling, torch.tanh)
    assert torch.equal(got, again)


def test_mean_of_half_precision_states_is_taken_in_fp32():
    hidden_TD = torch.full((512, 4), 100.0, dtype=torch.float16)  # the sum is beyond float16
    got = pool(hidden_TD, np.array([0, 512]), "mean", torch.tanh)
    assert torch.equal(got, torch.full((1, 4), 100.0))


def test_finish_cuts_then_normalises():
    vectors_SD = pool(states(), CU_S1, "mean", torch.tanh)
    got = finish(vectors_SD, column(dim=8))
    want = torch.nn.functional.normalize(vectors_SD[:, :8])
    assert torch.equal(got, want)
    assert (got.norm(dim=1) - 1).abs().max() < 1e-6
    assert torch.equal(finish(vectors_SD, column(normalize=False)), vectors_SD)


def test_finish_casts_and_marks_what_float16_cannot_hold():
    vectors_SD = torch.tensor([[1.0, 2.0], [70000.0, 2.0], [-70000.0, 0.0]])
    got = finish(vectors_SD, column(dtype="float16", normalize=False, dim=2, full_dim=2))
    assert got.dtype == torch.float16
    assert faulty(got, normalize=False).tolist() == [False, True, True]
    assert not faulty(vectors_SD, normalize=False).any()
    unit = finish(vectors_SD, column(dtype="float16", dim=2, full_dim=2))
    assert not faulty(unit, normalize=True).any()


def test_the_guard_sees_each_fault_and_nothing_else():
    good = torch.nn.functional.normalize(torch.ones(1, 4))[0]
    rows = [good, good * float("nan"), good * 0, good * 1.01, good * 0.99, -good]
    rows.append(torch.tensor([1.0, float("inf"), 0.0, 0.0]))
    vectors_SD = torch.stack(rows)
    assert "".join("01"[flag] for flag in faulty(vectors_SD, normalize=True)) == "0111101"
    assert "".join("01"[flag] for flag in faulty(vectors_SD, normalize=False)) == "0110001"


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e30])
def test_a_vector_that_cannot_be_normalised_is_flagged(scale):
    vectors_SD = torch.full((1, 24), scale)
    assert faulty(finish(vectors_SD, column()), normalize=True).tolist() == [True]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_unit_vectors_pass_in_every_dtype(dtype):
    vectors_SD = torch.randn(500, 24, generator=torch.Generator().manual_seed(2))
    assert not faulty(finish(vectors_SD, column(dtype=dtype)), normalize=True).any()


def test_the_room_knows_no_other_room():
    tree = ast.parse(Path(room.__file__).read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.startswith("pipeline")]
