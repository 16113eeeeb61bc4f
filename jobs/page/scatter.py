"""Vectors on a plane: their two widest directions, groups of like ones, and who is next to whom.

Shapes: N rows of the sample, M of them on the map, G groups, D width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedmill.jobs.page.sample import Sample

MOST_POINTS, MOST_GROUPS, ROWS_A_GROUP = 1200, 6, 40
DIRECTIONS = 20  # that groups are found in
ROUNDS = 30
NEIGHBOURS = 4


@dataclass(frozen=True, slots=True)
class Scatter:
    """A sample as a map. Groups are ordered by size, the largest first."""

    row_M: np.ndarray  # of the sample
    point_M2: np.ndarray
    group_M: np.ndarray
    middle_G: np.ndarray  # of the sample: the row nearest to the middle of the group
    explained: float  # share of the variance that the plane shows
    nearest: list[list[tuple[int, float]]]  # of each middle: (row of the sample, cosine)


def scatter(sample: Sample) -> Scatter | None:
    """The map of a sample; None where there is too little to draw."""
    count = len(sample.vectors_ND)
    if count < 3 or sample.vectors_ND.shape[1] < 2:
        return None
    norms_N1 = np.linalg.norm(sample.vectors_ND, axis=1, keepdims=True)
    unit_ND = sample.vectors_ND / np.maximum(norms_N1, 1e-12)
    row_M = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int))
    centred_MD = unit_ND[row_M] - unit_ND[row_M].mean(axis=0)
    left_MK, width_K, _ = np.linalg.svd(centred_MD, full_matrices=False)
    spread = float((width_K**2).sum())
    if spread < 1e-9:  # all vectors are one
        return None
    place_MK = (left_MK * width_K)[:, :DIRECTIONS]
    group_M = _groups(place_MK, int(np.clip(len(row_M) // ROWS_A_GROUP, 1, MOST_GROUPS)))
    middle_G = np.array([row_M[_middle(place_MK, group_M == g)] for g in range(group_M.max() + 1)])
    return Scatter(
        row_M=row_M,
        point_M2=place_MK[:, :2],
        group_M=group_M,
        middle_G=middle_G,
        explained=float((width_K[:2] ** 2).sum()) / spread,
        nearest=[_nearest(unit_ND, int(row)) for row in middle_G],
    )


def _groups(place_MK: np.ndarray, count: int) -> np.ndarray:
    """k-means from far-apart starts; the same groups each time. Numbered by size."""
    starts = [int(np.argmax((place_MK**2).sum(axis=1)))]
    while len(starts) < count:
        far_M = np.min([((place_MK - place_MK[s]) ** 2).sum(axis=1) for s in starts], axis=0)
        starts.append(int(np.argmax(far_M)))
    centre_GK = place_MK[starts]
    group_M = np.zeros(len(place_MK), int)
    for _ in range(ROUNDS):
        apart_MG = ((place_MK[:, None] - centre_GK[None]) ** 2).sum(axis=2)
        group_M = apart_MG.argmin(axis=1)
        centre_GK = np.array(
            [
                place_MK[group_M == g].mean(axis=0) if (group_M == g).any() else centre_GK[g]
                for g in range(count)
            ]
        )
    sizes = np.bincount(group_M, minlength=count)
    order = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    rank = np.zeros(count, int)
    rank[order] = np.arange(len(order))
    return rank[group_M]


def _middle(place_MK: np.ndarray, of_M: np.ndarray) -> int:
    """The place in M of the member nearest to the mean."""
    members = np.flatnonzero(of_M)
    away = ((place_MK[members] - place_MK[members].mean(axis=0)) ** 2).sum(axis=1)
    return int(members[away.argmin()])


def _nearest(unit_ND: np.ndarray, row: int) -> list[tuple[int, float]]:
    cosine_N = unit_ND @ unit_ND[row]
    best = np.argsort(-cosine_N, kind="stable")[: NEIGHBOURS + 1]
    return [(int(other), float(cosine_N[other])) for other in best if other != row][:NEIGHBOURS]
