"""What lies under an input is read, or counted with the reason why not; a table is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedmill.pipeline.plan.shards import Listing, list_shards
from embedmill.schemas.errors import InputError, StorageError
from tests.jobs.commandline import Bench
from tests.pipeline.conftest import Job


def listed(job: Job, path: Path | str | list[str] | None = None) -> Listing:
    path = [str(p) for p in path] if isinstance(path, list) else str(path or job.folder / "in")
    return list_shards(job.spec(input={"path": path, "id": "text"}).input, str(job.folder / "out"))


def names(listing: Listing) -> list[str]:
    return [found.shard.name for found in listing.found]


def shards(job: Job, *wanted: str) -> None:
    for name in wanted:
        job.shard(name, text=[name])


def test_parquet_has_its_suffix_in_any_case_and_two_shorter_ones(job: Job) -> None:
    shards(job, "a.parquet", "B.PARQUET", "c.Parquet", "d.pq", "e.parq", "f.csv", "g")
    found = listed(job)
    assert names(found) == ["B.PARQUET", "a.parquet", "c.Parquet", "d.pq", "e.parq"]
    assert dict(found.others.counts) == {"suffix": 2}
    assert [Path(where).name for where, _ in found.others.named] == ["f.csv", "g"]


def test_a_folder_of_other_suffixes_says_what_lies_there_and_what_to_do(job: Job) -> None:
    shards(job, "f.csv", "g")
    with pytest.raises(InputError, match=r"2 were left out .*in/g, suffix.*a glob such as /\*"):
        listed(job)
    assert names(listed(job, job.folder / "in" / "*")) == ["f.csv", "g"]


def test_hidden_files_and_folders_are_counted_and_partitions_are_none(job: Job) -> None:
    shards(job, "a.parquet", "_day=1/b.parquet", ".zone=x/c.parquet", "day=_HIVE_/d.parquet")
    shards(job, "_SUCCESS", ".e.parquet", "_tmp/f.parquet", "x/.g/h.parquet")
    found = listed(job)
    assert sorted(names(found)) == [
        ".zone=x/c.parquet", "_day=1/b.parquet", "a.parquet", "day=_HIVE_/d.parquet",
    ]  # fmt: skip
    assert dict(found.others.counts) == {"hidden": 4}


def test_a_glob_counts_what_it_asks_for_alone(job: Job) -> None:
    shards(job, "a.parquet", "_b.parquet", "notes.txt", "_old/c.parquet")
    found = listed(job, job.folder / "in" / "*.parquet")
    assert names(found) == ["a.parquet"]
    assert [Path(where).name for where, _ in found.others.named] == ["_b.parquet"]


def test_a_link_to_a_folder_is_followed_once(job: Job) -> None:
    job.write(job.folder / "nas" / "2024" / "1.parquet", text=["x"])
    shards(job, "0.parquet")
    (job.folder / "in" / "2024").symlink_to(job.folder / "nas" / "2024")
    (job.folder / "in" / "again").symlink_to(job.folder / "nas" / "2024")
    (job.folder / "in" / "up").symlink_to(job.folder / "in")
    (job.folder / "in" / "gone").symlink_to(job.folder / "nowhere")
    found = listed(job)
    assert names(found) == ["0.parquet", "2024/1.parquet"]
    linked = sorted(Path(where).name for where, reason in found.others.named if reason == "linked")
    assert linked == ["again", "up"]
    assert found.others.counts.total() == 3  # the broken one has no suffix of ours


def test_a_real_folder_comes_before_a_link_to_it(job: Job) -> None:
    """Default ids have the file's own name, whatever links to it."""
    shards(job, "z/deep/1.parquet")
    (job.folder / "in" / "a").symlink_to(job.folder / "in" / "z" / "deep")
    assert names(listed(job)) == ["z/deep/1.parquet"]


MARKS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Iceberg": "metadata/00000-x.metadata.json",
    "Hudi": ".hoodie/hoodie.properties",
    "Lance": "_versions/1.manifest",
}


@pytest.mark.parametrize("kind", MARKS)
def test_a_table_is_refused_and_a_list_of_its_files_is_read(job: Job, kind: str) -> None:
    shards(job, "t/a.parquet", "t/day=1/b.parquet")
    mark = job.folder / "in" / "t" / MARKS[kind]
    mark.parent.mkdir()
    mark.write_text("{}")
    table = job.folder / "in" / "t"
    for path in (table, table / "*.parquet", table / "day=1", table.parent, table / "**" / "b*"):
        with pytest.raises(InputError, match=f"{kind} table") as caught:
            listed(job, path)
        assert ("TABLE_FOLDER", str(table)) == (caught.value.code, caught.value.where), path
    found = listed(job, [table / "a.parquet", table / "day=1" / "b.parquet"])
    assert sorted(names(found)) == ["a.parquet", "b.parquet"]


def test_a_folder_that_is_called_metadata_makes_no_table(job: Job) -> None:
    shards(job, "metadata/a.parquet", "data/b.parquet")
    assert names(listed(job)) == ["data/b.parquet", "metadata/a.parquet"]


@pytest.mark.parametrize("path", ["s3://b//corpus", "s3://b/a//b/*.parquet"])
def test_a_path_with_an_empty_folder_name_is_no_other_path(job: Job, path: str) -> None:
    with pytest.raises(StorageError, match=r"STORE_NAME.*//"):
        listed(job, path)


@pytest.fixture
def bench(tmp_path: Path, tiny_bert: Path, write_texts, capfd, monkeypatch) -> Bench:
    """A command line, and one shard."""
    write_texts(tmp_path / "in" / "0.parquet", text=["a lemon", "a boat"])
    return Bench(tmp_path, tiny_bert, capfd, monkeypatch)


def test_plan_run_and_report_say_the_same(bench: Bench) -> None:
    (bench.folder / "in" / "c.csv").write_text("x")
    (bench.folder / "in" / "_d.parquet").write_text("x")
    want = {"suffix": 1, "hidden": 1}
    code, out, _ = bench.run("--json", command="plan")
    assert (0, want) == (code, json.loads(out)["left_out"])
    code, out, _ = bench.run("--json")
    assert (0, want) == (code, json.loads(out)["left_out"])
    for command in (("report", "--json"), ("report",)):
        code, out, _ = bench.command(command[0], str(bench.folder / "out"), *command[1:])
        assert code == 0
        assert "c.csv" in out
        assert "_d.parquet" in out
