"""The spec's `index`: vector indexes that follow the output.

No field holds a secret: credentials come from the environment of the job (docs/indexes.md).
"""

from __future__ import annotations

import os
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, model_validator

from embedmill.schemas.section import Name, Section

# sink -> the fields that say where it is, of which one of each group is needed
PLACES: dict[str, tuple[str, ...]] = {
    "lance": ("path",),
    "faiss": ("path",),
    "pgvector": ("table", "url"),
    "qdrant": ("path", "url", "collection"),
}
TYPES = {
    "lance": ("flat", "hnsw", "ivf"),
    "faiss": ("flat", "hnsw", "ivf"),
    "pgvector": ("flat", "hnsw", "ivf"),
    "qdrant": ("flat", "hnsw"),
}
SECRETS = ("password", "passfile", "sslpassword", "api_key", "api-key")


class Index(Section):
    """A sink: a vector index that `embedmill index` loads, and keeps equal to the snapshot."""

    sink: Literal["lance", "pgvector", "qdrant", "faiss"] = Field(
        description="Lance (also read by LanceDB), PostgreSQL with pgvector, Qdrant, FAISS files"
    )
    name: Name | None = Field(
        None, description="what search --sink calls it; null: as its sink is called"
    )
    path: Name | None = Field(
        None,
        description="lance: a dataset, here or in s3://, gs://, az://; faiss: a folder of its own; "
        "qdrant: a folder of its own for the engine inside this process",
    )
    url: Name | None = Field(
        None,
        description="pgvector: postgresql://HOST/DATABASE, null: what PGHOST and its like say; "
        "qdrant: the server's; never with a password",
    )
    table: Name | None = Field(None, description="pgvector: the view that searchers read")
    collection: Name | None = Field(None, description="qdrant: the alias that searchers read")
    column: Name | None = Field(
        None, description="which vector column; null: the first that has one vector a row"
    )
    metric: Literal["cosine", "dot", "l2"] = Field(
        "cosine", description="what near means; columns of bits have Hamming distance instead"
    )
    type: Literal["auto", "flat", "hnsw", "ivf"] = Field(
        "auto",
        description="flat: exact; hnsw: a graph; ivf: lists; auto: by the number of rows, "
        "see indexes.md",
    )
    min_recall: Annotated[float, Field(ge=0, le=1)] = Field(
        0.95,
        description="recall@10 against exact search on sampled rows; below it nothing is "
        "published, exit 4",
    )

    @property
    def called(self) -> str:
        """The name for `search --sink` and for people."""
        return self.name or self.sink

    @property
    def place(self) -> tuple[str | None, ...]:
        """Where it is; two sinks of one place would overwrite each other."""
        path = self.path and (self.path if "://" in self.path else os.path.abspath(self.path))
        return path, self.url, self.table, self.collection

    @model_validator(mode="after")
    def _makes_sense(self) -> Index:
        for field in ("path", "url", "table", "collection"):
            if getattr(self, field) is not None and field not in PLACES[self.sink]:
                known = " and ".join(PLACES[self.sink])
                raise ValueError(f"{self.sink} has no {field}; it has {known}")
        if self.sink in ("lance", "faiss") and self.path is None:
            raise ValueError(f"{self.sink} wants a path")
        if self.sink == "pgvector" and self.table is None:
            raise ValueError("pgvector wants a table")
        if self.sink == "qdrant":
            server = self.url is not None and self.collection is not None
            if server == (self.path is not None) or (self.path and (self.url or self.collection)):
                raise ValueError("qdrant wants a url and a collection, or a path alone")
        if self.type != "auto" and self.type not in TYPES[self.sink]:
            known = ", ".join(TYPES[self.sink])
            raise ValueError(f"{self.sink} has no type {self.type}; it has {known}")
        self._refuse_places()
        return self

    def _refuse_places(self) -> None:
        if self.path is not None and self.sink != "lance" and "://" in self.path:
            raise ValueError(f"{self.sink} keeps its files in a folder here; name a path")
        if self.url is None:
            return
        scheme = ("postgresql", "postgres") if self.sink == "pgvector" else ("http", "https")
        try:
            parts = urlsplit(self.url)
            secret = parts.password is not None or set(SECRETS) & parse_qs(parts.query).keys()
        except ValueError:
            raise ValueError("the url cannot be read") from None
        if parts.scheme not in scheme:
            raise ValueError(f"the url of {self.sink} begins with {scheme[0]}://")
        if secret:
            raise ValueError(
                "a url with a secret does not belong in a spec; put it into the environment"
            )
