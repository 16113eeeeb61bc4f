"""Units tile the input exactly once, keep the cap, and stay as they are when others change."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.pipeline.plan.units import cut
from embedmill.schemas.plan import Shard, Slice

QUICK = settings(deadline=None, max_examples=150)
SHARDS = st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=20)


def shard(name: str, groups: list[int]) -> tuple[Shard, tuple[int, ...]]:
    rows = sum(groups)
    return Shard(f"/in/{name}", name, rows, "1", "f", rows), tuple(groups)


def named(groups: list[list[int]]) -> list[tuple[Shard, tuple[int, ...]]]:
    return [shard(f"{n:03d}.parquet", one) for n, one in enumerate(groups)]


@QUICK
@given(SHARDS, st.integers(1, 60))
def test_every_row_is_in_one_slice_and_no_unit_is_above_the_cap(groups, cap):
    shards = named(groups)
    units = list(cut(shards, cap))
    assert all(sum(piece.rows for piece in unit) <= cap for unit in units)
    slices = sorted(
        (piece for unit in units for piece in unit), key=lambda s: (s.shard.uri, s.start)
    )
    for one, _ in shards:
        mine = [piece for piece in slices if piece.shard == one]
        assert mine, "a shard without rows is counted too"
        end = 0
        for piece in mine:
            assert end == piece.start
            end += piece.rows
        assert one.rows == end


@QUICK
@given(SHARDS, st.integers(1, 60), st.randoms(use_true_random=False))
def test_the_order_in_which_shards_are_listed_does_not_matter(groups, cap, random):
    shards = named(groups)
    expected = list(cut(shards, cap))
    random.shuffle(shards)
    assert expected == list(cut(shards, cap))


@QUICK
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), SHARDS)
def test_a_big_shard_is_cut_alike_whatever_lies_beside_it(groups, others):
    big = shard("050-big.parquet", [*groups, 30])
    alone = list(cut([big], 30))
    beside = [
        unit for unit in cut([*named(others), big], 30) if any(s.shard == big[0] for s in unit)
    ]
    assert alone == beside
    assert all(len(unit) == 1 for unit in beside)


def test_row_groups_are_kept_whole_where_they_fit():
    big, groups = shard("a", [40, 40, 30, 100, 10])
    starts = [(piece.start, piece.rows) for (piece,) in cut([(big, groups)], 80)]
    assert starts == [(0, 80), (80, 30), (110, 80), (190, 30)]


def test_one_new_small_shard_leaves_most_units_of_the_others_as_they_are():
    shards = named([[10]] * 600)
    before = set(cut(shards, 100))
    for place in range(0, 600, 37):
        after = set(cut([*shards, shard(f"{place:03d}-new.parquet", [10])], 100))
        assert len(before - after) <= 6, "the group that it joins, and few until the next border"


def test_small_shards_share_units():
    units = list(cut(named([[10]] * 600), 100))
    assert len(units) < 200
    assert units[0][0] == Slice(shard("000.parquet", [10])[0], 0, 10)
