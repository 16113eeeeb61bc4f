"""A place that is not ours, not the only sink's, or not of the column any more, is left alone."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import asyncpg
import lance
import pyarrow as pa
import pytest
from qdrant_client import QdrantClient, models

from embedmill.jobs.search.exact import search
from embedmill.schemas.errors import ConflictError
from tests.pipeline.index.conftest import spec_of
from tests.pipeline.index.qdrant_server import KEY


def taken_lance(entry: dict) -> None:
    lance.write_dataset(pa.table({"mine": [1, 2]}), entry["path"])


def taken_folder(entry: dict) -> None:
    Path(entry["path"]).mkdir()
    (Path(entry["path"]) / "mine.txt").write_text("mine")


def taken_table(entry: dict) -> None:
    async def make() -> None:
        db = await asyncpg.connect()
        await db.execute('CREATE TABLE "{}" (mine int)'.format(entry["table"].replace('"', '""')))
        await db.close()

    asyncio.run(make())


def taken_collection(entry: dict) -> None:
    client = QdrantClient(url=entry["url"], api_key=KEY, check_compatibility=False)
    vector = models.VectorParams(
        size=4, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT32
    )
    client.create_collection(entry["collection"], vectors_config=vector)
    client.close()


def taken_alias(entry: dict) -> None:
    taken_collection({**entry, "collection": "theirs"})
    client = QdrantClient(url=entry["url"], api_key=KEY, check_compatibility=False)
    alias = models.CreateAlias(collection_name="theirs", alias_name=entry["collection"])
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    client.close()


TAKEN = {
    "lance": (taken_lance, taken_folder),
    "faiss": (taken_folder,),
    "qdrant": (taken_folder,),
    "pgvector": (taken_table,),
    "server": (taken_collection, taken_alias),
}


@pytest.mark.filterwarnings("ignore:Api key")
@pytest.mark.parametrize(("name", "take"), [(n, take) for n in TAKEN for take in TAKEN[n]])
def test_a_place_that_is_not_ours_is_left_alone(
    make: Callable, name: str, take: Callable[[dict], None]
) -> None:
    follower = make(name)
    take(follower.entry)
    with pytest.raises(ConflictError, match=r"SINK_TAKEN: .*no sink of ours; choose another"):
        follower.index()
    with pytest.raises(ConflictError):
        follower.loaded()


def test_two_sinks_of_one_place_are_refused(make: Callable) -> None:
    entry = make("faiss").entry
    other = entry | {"name": "other", "metric": "dot"}
    assert spec_of(Path("in"), Path("m"), Path("out"), [entry, other | {"path": "/elsewhere"}])
    for spelled in (entry["path"], f"{entry['path']}/.", f"{entry['path']}/x/../"):
        with pytest.raises(ValueError, match="'faiss' and 'other' have one place"):
            spec_of(Path("in"), Path("m"), Path("out"), [entry, other | {"path": spelled}])


def test_a_place_that_holds_another_column_by_now_is_not_searched(
    make: Callable, tmp_path: Path
) -> None:
    """The query would be of one column, and what it is compared with of another."""
    follower = make("faiss")
    follower.index()
    with follower.opened() as sink:
        sink.begin(False, "x")
        sink.publish(dataclasses.replace(sink.loaded(), column="other"))
    with pytest.raises(ConflictError, match="OTHER_COLUMN: .*'other' by now, not 'vector'"):
        search(str(follower.out), "lemon", sink="faiss")
