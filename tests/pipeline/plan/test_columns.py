"""A column that is missing, doubled or of a wrong type is an error that names the shard."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedmill.pipeline.plan.columns import carried_schema, template_parts, text_columns
from embedmill.pipeline.plan.shards import list_shards
from embedmill.schemas.errors import InputError, SpecError
from tests.pipeline.conftest import Job


def carried(job: Job, **input) -> pa.Schema:
    spec = job.spec(input=input).input
    return carried_schema(spec, list_shards(spec, str(job.folder / "out")).found)


def refused(job: Job, **input) -> InputError:
    with pytest.raises(InputError) as caught:
        carried(job, **input)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("txet", "did you mean 'text'"), ("TEXT", "'text'"), ("qqq", "it has 'text'")],
)
def test_a_missing_column_is_named_with_the_nearest_that_is_there(job: Job, asked, hint):
    path = job.shard("a.parquet", text=["x"], doc=["1"])
    error = refused(job, text=asked)
    assert (error.code, error.where) == ("COLUMN_MISSING", str(path))
    assert repr(asked) in error.what
    assert hint in error.do


def test_of_many_columns_some_are_named_and_a_folders_name_is_none(job: Job):
    job.shard("lang=de/a.parquet", text=["x"], **{f"c{n}": ["y"] for n in range(20)})
    assert refused(job, text="qqq").do.endswith("'c10', … and 9 more")
    assert "in the name of a folder alone" in refused(job, text="lang").do


def test_a_column_missing_in_one_shard_of_many_is_found(job: Job):
    job.shard("a.parquet", text=["x"], title=["t"])
    path = job.shard("b.parquet", text=["x"])
    for field in (
        {"keep": ["title"]},
        {"pair": "title"},
        {"id": "title"},
        {"text": "{title} {text}"},
    ):
        assert refused(job, **field).where == str(path)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1]), pa.array([1.5]), pa.array([True]), pa.array([b"x"]), pa.array([["x"]]),
        pa.array([{"a": "x"}]), pa.array([None]),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_a_text_that_is_no_string_is_refused(job: Job, column):
    path = job.shard("a.parquet", text=column)
    error = refused(job)
    assert (error.code, error.where) == ("COLUMN_TYPE", str(path))
    assert str(column.type).partition("<")[0] in error.what


@pytest.mark.parametrize("column", [pa.array([1.5]), pa.array([True]), pa.array([b"x"])])
def test_an_id_that_is_neither_string_nor_integer_is_refused(job: Job, column):
    job.shard("a.parquet", text=["x"], doc=column)
    assert refused(job, id="doc").code == "COLUMN_TYPE"


def test_a_column_that_is_there_twice_is_refused_if_it_is_asked_for(job: Job):
    table = pa.table(
        [pa.array(["x"]), pa.array(["y"]), pa.array(["z"])], ["text", "title", "title"]
    )
    pq.write_table(table, job.folder / "in" / "a.parquet")
    assert carried(job).names == ["id"]
    assert refused(job, keep=["title"]).code == "COLUMN_TWICE"


@pytest.mark.parametrize("nested", [False, True])
def test_an_extension_type_is_refused_in_a_kept_column(job: Job, nested):
    """A type whose values have no plain form; of the others only what stands at the top."""
    kind = pa.uuid() if nested else pa.opaque(pa.binary(16), "point", "a vendor")
    column = pa.ExtensionArray.from_storage(kind, pa.array([bytes(16)], pa.binary(16)))
    if nested:
        column = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), column)
    job.shard("a.parquet", text=["x"], key=column)
    assert refused(job, keep=["key"]).code == "COLUMN_TYPE"


def test_an_extension_type_is_refused_as_text_and_as_id(job: Job):
    column = pa.ExtensionArray.from_storage(
        pa.opaque(pa.string(), "path", "a vendor"), pa.array(["{}"])
    )
    job.shard("a.parquet", text=["x"], place=column)
    assert refused(job, text="place").code == "COLUMN_TYPE"
    assert refused(job, id="place").code == "COLUMN_TYPE"


@pytest.mark.parametrize("field", [{"id": "n"}, {"keep": ["n"]}])
def test_shards_that_differ_in_a_type_are_both_named(job: Job, field):
    first = job.shard("a.parquet", text=["x"], n=[1])
    second = job.shard("b.parquet", text=["x"], n=["1"])
    error = refused(job, **field)
    assert error.code == "SCHEMA_MISMATCH"
    for part in (str(first), str(second), "int64", "string", "'n'"):
        assert part in str(error)


def test_types_that_hold_the_same_strings_or_integers_are_alike(job: Job):
    job.shard("a.parquet", text=["x"], doc=pa.array([1], pa.int8()), title=["t"])
    job.shard(
        "b.parquet",
        text=pa.array(["x"]).dictionary_encode(),
        doc=pa.array([1], pa.uint32()),
        title=pa.array(["t"], pa.large_string()),
    )
    expected = [("doc", pa.int64()), ("title", pa.string())]
    schema = carried(job, id="doc", keep=["title", "doc"])
    assert expected == [(field.name, field.type) for field in schema]


def test_every_plain_kind_of_column_can_be_kept(job: Job):
    kinds = {
        "list": pa.array([["x"]]), "struct": pa.array([{"a": 1}]), "bytes": pa.array([b"x"]),
        "time": pa.array([0], pa.timestamp("us", "UTC")), "date": pa.array([0], pa.date32()),
        "decimal": pa.array([1]).cast(pa.decimal128(30, 2)), "null": pa.array([None]),
        "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "flag": pa.array([True]),
    }  # fmt: skip
    job.shard("a.parquet", text=["x"], **kinds)
    batch = job.read(input={"keep": list(kinds)})
    for name, column in kinds.items():
        assert column.to_pylist() == batch.rows.column(name).to_pylist()


def test_a_kept_column_called_like_the_default_id_is_refused(job: Job):
    """Two columns of one name in a part could not be told apart."""
    job.shard("a.parquet", text=["x"], id=["1"])
    with pytest.raises((InputError, SpecError, ValueError), match="id"):
        carried(job, keep=["id"])
    assert carried(job, id="id", keep=["id"]).names == ["id"]


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("body", [("", "body")]),
        ("a column", [("", "a column")]),
        ("{title} {body}", [("", "title"), (" ", "body")]),
        ("{{{title}}}!", [("{", None), ("", "title"), ("}", None), ("!", None)]),
    ],
)
def test_a_template_is_its_literals_and_columns(template, parts):
    def joined(pieces):
        """Literals may come in one piece or more."""
        text = "".join(literal + (f"\0{name}\0" if name else "") for literal, name in pieces)
        return text

    assert joined(parts) == joined(template_parts(template))


@pytest.mark.parametrize(
    "template", ["{", "}", "{}", "{a:>3}", "{a!r}", "{{a}}", "x {a} {", "{0.x:"]
)
def test_a_template_that_is_not_one_is_a_spec_error(template):
    with pytest.raises(SpecError, match="input"):
        template_parts(template)


def test_a_column_used_twice_is_read_once(job: Job):
    spec = job.spec(input={"text": "{title} {text} {title}", "pair": "text"}).input
    assert text_columns(spec) == ["title", "text"]
