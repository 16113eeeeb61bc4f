"""Search finds what brute force finds, encodes the query like a row, and says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.dataset import dataset
from embedmill.jobs.search import exact as room
from embedmill.jobs.search.exact import search, search_text
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import ConflictError, SpecError, StorageError
from tests.jobs.conftest import Output, flip_a_bit_of, make_spec, run_by_hand


def brute_force(output: Output, column: str, query: np.ndarray) -> tuple[list[str], np.ndarray]:
    """All ids in order, and their cosines to the query, in float64."""
    table = dataset(output.path).to_table()
    flat = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = flat.reshape(len(table), -1).astype(np.float64)
    scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    return table.column("id").to_pylist(), scores


def vector_of(output: Output, doc: str, column: str) -> np.ndarray:
    table = dataset(output.path).to_table(columns=["id", column])
    row = table.column("id").to_pylist().index(doc)
    return np.array(table.column(column)[row].as_py(), np.float64)


@pytest.mark.parametrize("column", ["vector", "small", "raw"])
def test_equals_brute_force(made: Output, column: str) -> None:
    result = search(made.path, "lemon map", k=150, column=column)  # the text of no row
    row = search(made.path, "rain river", k=1, column=column)["hits"][0]
    assert row["score"] <= 1 + 1e-9
    from embedmill.pipeline.snapshot.read import read_plan, required

    plan, _ = read_plan(made.store, required(made.store).manifest.plan)
    chosen = next(c for c in plan.columns if c.name == column)
    ids, scores = brute_force(made, column, room.query_vector(plan, chosen, "lemon map"))
    order = sorted(range(len(ids)), key=lambda n: (-round(scores[n], 12), n))[:150]
    assert [hit["id"] for hit in result["hits"]] == [ids[n] for n in order]
    found = [hit["score"] for hit in result["hits"]]
    np.testing.assert_allclose(found, scores[order], rtol=0, atol=1e-12)


def test_a_row_finds_itself_with_its_kept_columns(made: Output) -> None:
    hit = search(made.path, "lemon", k=1)["hits"][0]
    assert hit["score"] > 0.99
    whole = dataset(made.path).to_table(columns=["id", "title"]).to_pylist()
    assert {"id": hit["id"], "title": hit["title"]} in whole
    assert list(hit) == ["id", "score", "title"]


def test_the_query_is_encoded_like_a_row(made: Output) -> None:
    from embedmill.pipeline.snapshot.read import read_plan, required

    plan, _ = read_plan(made.store, required(made.store).manifest.plan)
    for column in plan.columns:
        text = "cloud river apple door grape rain"
        row = vector_of(made, search(made.path, text, k=1)["hits"][0]["id"], column.name)
        query = room.query_vector(plan, column, text)
        assert query.shape == row.shape
        assert abs(np.linalg.norm(query) - 1) < 1e-12


def test_ties_go_by_order_in_any_batch_size(made: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = search(made.path, "rain", k=200)["hits"]
    ids = dataset(made.path).to_table(columns=["id"]).column("id").to_pylist()
    keys = [(-hit["score"], ids.index(hit["id"])) for hit in wanted]
    assert keys == sorted(keys)
    assert len({key[0] for key in keys}) < len(keys), "the fixture has equal rows"
    for size in (1, 3, 7):
        monkeypatch.setattr(room, "BATCH_ROWS", size)
        monkeypatch.setattr(room, "EXACT_ROWS", size)
        for k in (1, 4, 200):
            assert search(made.path, "rain", k=k)["hits"] == wanted[:k]


def test_scores_that_differ_less_than_float32_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(5)
    vectors = (random.normal(size=32) + 1e-4 * random.normal(size=(900, 32))).astype(np.float32)
    query = vectors[0].astype(np.float64) + 0.05 * random.normal(size=32)
    query /= np.linalg.norm(query)
    wide = vectors.astype(np.float64)
    scores = (wide * query).sum(axis=1) / np.sqrt((wide * wide).sum(axis=1))
    for part in range(3):
        some = pa.array(vectors[300 * part : 300 * part + 300].reshape(-1))
        table = pa.table({"v": pa.FixedSizeListArray.from_arrays(some, 32)})
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=100)
    paths = [f"{part}.parquet" for part in range(3)]
    monkeypatch.setattr(room, "EXACT_ROWS", 8)
    for size in (64, 4096):
        monkeypatch.setattr(room, "BATCH_ROWS", size)
        best = room._nearest(open_store(str(tmp_path)), paths, "v", query, 20)
        assert [-hit[1] for hit in best] == np.argsort(-scores, kind="stable")[:20].tolist()
        assert [300 * -part - row for _, _, part, row in best] == [-hit[1] for hit in best]


def test_the_result_is_json_and_text(made: Output) -> None:
    result = search(made.path, "rain", k=3)
    assert json.loads(json.dumps(result)) == result
    lines = search_text(result).splitlines()
    assert len(lines) == 3
    assert "title" in lines[0]
    assert search_text({**result, "hits": []}) == "no rows"


def test_prompts(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> None:
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    prompts = {"prompts": {"query": "fire: ", "document": "tree: "}}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    source = write_texts(tmp_path / "in.parquet", text=["rain", "map"], id=[7, 8])
    spec = make_spec(source, model, tmp_path / "out", input={"keep": [], "prompt": "document"})
    run_by_hand(spec)
    out = spec.output.path
    assert search(out, "rain")["prompt"] == "fire: "
    assert search(out, "rain", prompt="document")["hits"][0]["score"] > 1 - 1e-6
    assert (
        search(out, "rain", prompt="tree: ")["hits"]
        == search(out, "rain", prompt="document")["hits"]
    )
    assert search(out, "rain", prompt="")["prompt"] == ""
    assert {type(hit["id"]) for hit in search(out, "rain")["hits"]} == {int}


def test_without_a_query_prompt_the_rows_prompt_is_used(
    tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]
) -> None:
    source = write_texts(tmp_path / "in.parquet", text=["rain", "map"], id=[7, 8])
    spec = make_spec(source, tiny_bert, tmp_path / "out", input={"keep": [], "prompt": "tree: "})
    run_by_hand(spec)
    assert search(spec.output.path, "rain")["hits"][0]["score"] > 1 - 1e-6


def test_what_is_wrong_is_said(made: Output, tmp_path: Path) -> None:
    for query in ("", " \n"):
        with pytest.raises(SpecError, match="empty"):
            search(made.path, query)
    with pytest.raises(SpecError, match="UTF-8"):
        search(made.path, "\udcff")
    with pytest.raises(SpecError, match="vector, small, raw"):
        search(made.path, "rain", column="title")
    with pytest.raises(SpecError, match="k is 0"):
        search(made.path, "rain", k=0)
    with pytest.raises(ConflictError, match="NO_SNAPSHOT"):
        search(str(tmp_path), "rain")
    with pytest.raises(ConflictError, match="NO_SNAPSHOT"):
        dataset(str(tmp_path))


def test_a_damaged_or_lost_part_is_a_storage_error(copy: Output) -> None:
    paths = sorted(copy.store.list("data"))
    flip_a_bit_of(copy.store, paths[0], "vector")
    with pytest.raises(StorageError, match="PART_CORRUPT"):
        search(copy.path, "rain")
    (copy.store.root / paths[0]).unlink()
    with pytest.raises(StorageError, match="OBJECT_GONE"):
        search(copy.path, "rain")


def test_the_dataset_is_the_snapshot_and_nothing_else(copy: Output) -> None:
    before = dataset(copy.path).to_table()
    paths = sorted(copy.store.list("data"))
    stray = copy.store.root / paths[0].replace("-g000001", "-g000002")
    stray.write_bytes(copy.store.read(paths[0]))
    after = dataset(copy.path)
    assert after.to_table().equals(before)
    assert sorted(after.files) == sorted(str(copy.store.root / path) for path in paths)


def test_the_dataset_verifies_checksums(copy: Output) -> None:
    flip_a_bit_of(copy.store, sorted(copy.store.list("data"))[0], "vector")
    with pytest.raises((OSError, pa.ArrowException), match="(?i)checksum|CRC"):
        dataset(copy.path).to_table()


def test_plain_values() -> None:
    from datetime import datetime
    from decimal import Decimal

    when = datetime(2020, 1, 2)
    value = {"a": [float("nan"), b"\x01", (1, None)], "t": when, "d": Decimal("1.5")}
    wanted = {"a": [None, "01", [1, None]], "t": "2020-01-02T00:00:00", "d": "1.5"}
    assert room.plain(value) == wanted
