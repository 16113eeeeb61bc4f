"""Whatever can be known to be wrong with a shard is said before any encoding, in one line."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pytest

from embedmill.pipeline.plan.shards import Listing, footer_digest, list_shards
from embedmill.schemas.errors import InputError
from tests.patience import SOON
from tests.pipeline.conftest import Job


def listed(job: Job, path: str | list[str] | None = None, **more) -> Listing:
    spec = job.spec(input={"path": path or str(job.folder / "in"), "id": "text", **more})
    return list_shards(spec.input, str(job.folder / "out"))


def names(listing: Listing) -> list[str]:
    return [found.shard.name for found in listing.found]


def refused(job: Job, path: str | list[str] | None = None, **more) -> InputError:
    """The error, which must be one line of a kind that a user can act on."""
    with pytest.raises(InputError) as caught:
        listed(job, path, **more)
    assert caught.value.what
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def good(job: Job) -> bytes:
    """The bytes of a good shard, which is in the input as `good.parquet`."""
    return job.shard("good.parquet", 4, text=[f"t{n}" for n in range(10)]).read_bytes()


def broken(kind: str, good: bytes, path: Path) -> None:
    contents = {
        "empty": b"",
        "magic alone": b"PAR1",
        "two magics": b"PAR1PAR1",
        "csv": b"id,text\n1,apple\n2,bee\n3,sea\n",
        "html": b"<html><body>404: no such page here</body></html>",
        "gzip": b"\x1f\x8b\x08\x00" + bytes(60),
        "encrypted footer": b"PARE" + good[4:-4] + b"PARE",
        "footer longer than the file": good[:-8] + struct.pack("<I4s", 2**31, b"PAR1"),
        "empty footer": good[:-8] + struct.pack("<I4s", 0, b"PAR1"),
        "zeroed footer": good[:-200] + bytes(192) + good[-8:],
    }
    if kind == "arrow ipc":
        feather.write_feather(pa.table({"text": ["x"]}), path)
    else:
        path.write_bytes(contents[kind])


KINDS = {
    "empty": "NOT_PARQUET", "magic alone": "NOT_PARQUET", "two magics": "NOT_PARQUET",
    "csv": "NOT_PARQUET", "html": "NOT_PARQUET", "gzip": "NOT_PARQUET", "arrow ipc": "NOT_PARQUET",
    "footer longer than the file": "NOT_PARQUET", "empty footer": "NOT_PARQUET",
    "zeroed footer": "NOT_PARQUET", "encrypted footer": "ENCRYPTED",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_parquet_is_refused_by_its_name(job: Job, good, kind):
    path = job.folder / "in" / "broken.parquet"
    broken(kind, good, path)
    error = refused(job)
    assert (KINDS[kind], str(path)) == (error.code, error.where)


def test_a_file_truncated_anywhere_is_refused(job: Job, good):
    path = job.folder / "in" / "cut.parquet"
    for length in [
        *range(0, len(good), max(1, len(good) // 60)),
        *range(len(good) - 12, len(good)),
    ]:
        path.write_bytes(good[:length])
        error = refused(job)
        assert (error.code, error.where) == ("NOT_PARQUET", str(path)), f"at {length} bytes"


def test_a_shard_that_shrinks_while_it_is_read_has_changed(tmp_path: Path):
    shard = tmp_path / "a.parquet"
    shard.write_bytes(b"PAR1" + bytes(20))
    with pytest.raises(InputError) as caught, pa.OSFile(str(shard)) as file:
        footer_digest(file, str(shard), 100)
    assert caught.value.code == "INPUT_CHANGED"


def test_a_damaged_footer_is_refused_or_read_never_a_crash(job: Job, good):
    path = job.folder / "in" / "bent.parquet"
    start = len(good) - 8 - struct.unpack("<I", good[-8:-4])[0]
    for place in range(start, len(good) - 8, 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        listing = listed(job, on_bad_file="quarantine")
        assert "good.parquet" in names(listing)


def test_quarantine_goes_on_without_the_bad_shards_and_says_which(job: Job, good):
    for kind in ("csv", "empty"):
        broken(kind, good, job.folder / "in" / f"{kind}.parquet")
    listing = listed(job, on_bad_file="quarantine")
    assert names(listing) == ["good.parquet"]
    assert [Path(e.where).stem for e in listing.quarantined] == ["csv", "empty"]


def test_an_input_of_bad_shards_alone_is_an_error_even_under_quarantine(job: Job):
    broken("csv", b"", job.folder / "in" / "a.parquet")
    assert refused(job, on_bad_file="quarantine").code == "NOT_PARQUET"


def test_all_bad_shards_are_counted_and_the_first_is_named(job: Job, good):
    for n in range(3):
        broken("csv", good, job.folder / "in" / f"{n}.parquet")
    error = refused(job)
    assert error.where.endswith("0.parquet")
    assert "2 more" in error.what


@pytest.mark.parametrize(
    "name",
    [
        "with space.parquet", "100%.parquet", "a%20b.parquet", "#1.parquet", "what?.parquet",
        "star*.parquet", "[x].parquet", "{y}.parquet", "è.parquet", "e\u0300.parquet",
        "new\nline.parquet", "quote'\".parquet", "back\\slash.parquet", "-rf.parquet",
        "日本.parquet", "a:b.parquet",
    ],
)  # fmt: skip
def test_any_name_is_a_name(job: Job, name):
    path = job.shard(name, text=["x"])
    assert names(listed(job)) == [name]
    assert names(listed(job, str(path))) == [name]
    assert job.read().rows.column("id").to_pylist() == [f"{name}#0"]


def test_a_name_that_is_not_utf8_is_refused(job: Job):
    good = job.shard("a.parquet", text=["x"])
    os.rename(os.fsencode(good), os.fsencode(good.parent) + b"/\xff.parquet")
    assert refused(job).code == "SHARD_NAME"


def test_a_folder_gives_its_parquet_files_at_any_depth_but_no_hidden_ones(job: Job):
    for name in ("a.parquet", "x/b.parquet", "x/y/c.parquet", ".d.parquet", "_e.parquet"):
        job.shard(name, text=["x"])
    for name in ("_temporary/f.parquet", "x/.g/h.parquet", "x/_tmp.parquet", "notes.txt"):
        job.shard(name, text=["x"])
    assert names(listed(job)) == ["a.parquet", "x/b.parquet", "x/y/c.parquet"]


def test_a_folder_that_is_named_like_a_file_is_a_folder(job: Job):
    job.shard("x.parquet/part-0.parquet", text=["x"])
    assert names(listed(job)) == ["x.parquet/part-0.parquet"]
    assert names(listed(job, str(job.folder / "in" / "x.parquet"))) == ["part-0.parquet"]


@pytest.mark.timeout(SOON)
def test_a_pipe_is_skipped_in_a_folder_and_refused_by_name_and_never_waited_for(job: Job, good):
    pipe = job.folder / "in" / "pipe.parquet"
    os.mkfifo(pipe)
    assert names(listed(job)) == ["good.parquet"]
    assert refused(job, str(pipe)).code == "NOT_A_FILE"


# Root may read everything, unless it is without these.
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
LIST = """
import sys
from embedmill.pipeline.plan.shards import list_shards
from embedmill.schemas.errors import InputError
from embedmill.schemas.spec import Input
try:
    found = list_shards(Input(path=sys.argv[1], text="text", on_bad_file=sys.argv[2]), "/out")
    print(len(found.found), *found.left_out, sep="\\n")
except InputError as error:
    print(error.code, error.where, sep="\\n")
"""


def bound(path: Path, on_bad_file: str = "fail") -> list[str]:
    """What a process that permissions bind lists: how many shards, and what it leaves out."""
    python = [*BOUND, sys.executable, "-c"]
    if BOUND:  # it may not be allowed to give them up, or need them to reach another user's clone
        begin = [*python, "import embedmill.pipeline"]
        begun = subprocess.run(begin, capture_output=True, text=True)
        if begun.returncode:
            pytest.skip(f"root without its rights cannot run Python here: {begun.stderr[-200:]}")
    line = [*python, LIST, str(path), on_bad_file]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_shard_without_the_right_to_read_it_is_refused(job: Job, good):
    path = job.folder / "in" / "good.parquet"
    assert bound(path.parent) == ["1"]
    path.chmod(0)
    assert bound(path.parent) == ["NOT_READABLE", str(path)]


@pytest.mark.parametrize("mode", [0o000, 0o400], ids=["not listed", "not entered"])
def test_a_folder_without_the_right_to_read_it_is_not_taken_for_an_empty_one(
    job: Job, good, mode: int
):
    """Its rows would leave the snapshot in silence."""
    inner = job.shard("sub/deeper/a.parquet", text=["x"]).parent
    outer = job.folder / "in"
    there = str(inner if mode == 0 else inner / "a.parquet")
    inner.chmod(mode)
    try:
        for path in (outer, outer / "s*" / "*" / "*.parquet", outer / "**" / "a.parquet"):
            assert bound(path) == ["NOT_READABLE", there], path
        assert bound(outer, "quarantine") == ["1", there]
        assert bound(outer / "*.parquet") == ["1"], "nothing is looked for there"
    finally:
        inner.chmod(0o700)


def test_a_glob_follows_a_link_to_a_folder_but_not_under_two_stars(job: Job, good):
    folder = job.folder / "in"
    (folder / "a").mkdir()
    (folder / "a" / "circle").symlink_to(folder)
    (folder / "link").symlink_to(folder / "a" / "circle")
    assert names(listed(job)) == ["good.parquet"]
    assert names(listed(job, str(folder / "*" / "*.parquet"))) == ["link/good.parquet"]
    assert names(listed(job, str(folder / "**" / "*.parquet"))) == ["good.parquet"]


def test_links_are_followed_and_a_broken_one_or_a_circle_is_no_file(job: Job, good):
    folder = job.folder / "in"
    (folder / "link.parquet").symlink_to(folder / "good.parquet")
    (folder / "broken.parquet").symlink_to(folder / "nothing")
    (folder / "circle.parquet").symlink_to(folder / "circle.parquet")
    assert names(listed(job)) == ["good.parquet", "link.parquet"]


@pytest.mark.parametrize("path", ["in/*.csv", "in/none.parquet", "nowhere", "no/where/*.parquet"])
def test_no_matching_file_is_an_error(job: Job, good, path):
    error = refused(job, str(job.folder / path))
    assert (error.code, error.where) == ("NO_INPUT", str(job.folder / path))


def test_one_pattern_of_a_list_that_matches_nothing_is_an_error(job: Job, good):
    assert refused(job, [str(job.folder / "in"), str(job.folder / "in2")]).code == "NO_INPUT"


def test_an_input_under_the_output_is_refused_by_whatever_path(job: Job):
    path = job.write(job.folder / "out" / "data" / "a.parquet", text=["x"])
    (job.folder / "other").symlink_to(job.folder / "out")
    for spelled in (path, job.folder / "in" / ".." / "out", job.folder / "other" / "data"):
        assert refused(job, str(spelled)).code == "INPUT_INSIDE_OUTPUT", spelled


def test_two_patterns_give_the_same_file_once(job: Job, good):
    folder = job.folder / "in"
    paths = [folder, folder / "*.parquet", folder / "good.parquet", folder / ".." / "in"]
    assert names(listed(job, [str(path) for path in paths])) == ["good.parquet"]


def test_default_ids_need_shards_with_different_names(job: Job):
    for folder in ("x", "y"):
        job.shard(f"{folder}/a.parquet", text=["t"])
    both = [str(job.folder / "in" / folder) for folder in ("x", "y")]
    assert refused(job, both, id=None).code == "SHARD_NAMES"
    assert names(listed(job, both)) == ["a.parquet", "a.parquet"]
    assert names(listed(job, id=None)) == ["x/a.parquet", "y/a.parquet"]


def test_a_glob_names_its_files_from_its_first_wildcard_on(job: Job):
    job.shard("2024/a.parquet", text=["t"])
    job.shard("2025/a.parquet", text=["t"])
    assert names(listed(job, str(job.folder / "in" / "20*" / "*.parquet"))) == [
        "2024/a.parquet",
        "2025/a.parquet",
    ]


@pytest.mark.parametrize("scheme", ["http", "ftp", "zip", "memory"])
def test_a_scheme_that_is_not_allowed_is_refused(job: Job, scheme):
    assert refused(job, f"{scheme}://host/a.parquet").code == "SCHEME"


def test_a_shard_without_rows_or_with_many_row_groups_is_fine(job: Job):
    job.shard("a.parquet", text=pa.array([], pa.string()))
    job.shard("b.parquet", 1, text=["x"] * 300)
    empty, many = listed(job).found
    assert (empty.shard.rows, many.shard.rows) == (0, 300)
    assert many.row_groups == (1,) * 300


def test_a_file_url_is_its_path(job: Job, good):
    assert names(listed(job, f"file://{job.folder}/in/good.parquet")) == ["good.parquet"]
