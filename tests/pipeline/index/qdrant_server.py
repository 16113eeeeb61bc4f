"""Qdrant's REST requests, answered by Qdrant's own engine in this process.

No server of it can be had from a package. Each request is read with the models of Qdrant's client,
which know its shapes and refuse any other; what is kept and found is the engine's.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http import models as shapes

KEY = "the key of this server"


@dataclass
class Collection:
    shard: Any
    config: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    indexes: dict[str, Any] = field(default_factory=dict)


class Server:
    """Collections and aliases; one request at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.Lock()
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self.requests: list[str] = []  # what was asked for: method and kind

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        for verb, pattern, name in ROUTES:
            if verb == method and (match := re.fullmatch(pattern, path)):
                self.requests.append(name)
                found = [unquote(part) for part in match.groups()]
                with self.lock:
                    return getattr(self, name)(*found, body)
        return 404, f"no such request: {method} {path}"

    def points_of(self, name: str) -> Collection:
        return self.collections[self.aliases.get(name, name)]

    # --- collections ---

    def list(self, _: bytes) -> tuple[int, Any]:
        return 200, {"collections": [{"name": name} for name in self.collections]}

    def exists(self, name: str, _: bytes) -> tuple[int, Any]:
        return 200, {"exists": name in self.collections or name in self.aliases}

    def create(self, name: str, body: bytes) -> tuple[int, Any]:
        asked = shapes.CreateCollection.model_validate_json(body)
        if name in self.collections:
            return 409, f"{name} exists"
        where = self.folder / uuid.uuid4().hex
        where.mkdir(parents=True)
        vectors = edge.EdgeVectorParams(
            size=asked.vectors.size,
            distance=getattr(edge.Distance, asked.vectors.distance.value),
            datatype=getattr(edge.VectorStorageDatatype, asked.vectors.datatype.value.title()),
        )
        config = json.loads(asked.model_dump_json(exclude_none=True))
        shard = edge.EdgeShard.create(str(where), edge.EdgeConfig(vectors=vectors))
        self.collections[name] = Collection(shard, config)
        return 200, True

    def read(self, name: str, _: bytes) -> tuple[int, Any]:
        if self.aliases.get(name, name) not in self.collections:
            return 404, f"{name} is not there"
        one = self.points_of(name)
        count = one.shard.count(edge.CountRequest())
        return 200, {
            "status": "green", "optimizer_status": "ok", "segments_count": 1, "points_count": count,
            "indexed_vectors_count": count,
            "config": {
                "params": {"vectors": one.config["vectors"]},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {
                    "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0, "flush_interval_sec": 5,
                },
                "metadata": one.metadata,
            },
            "payload_schema": one.indexes,
        }  # fmt: skip

    def update(self, name: str, body: bytes) -> tuple[int, Any]:
        asked = shapes.UpdateCollection.model_validate_json(body)
        self.collections[name].metadata |= asked.metadata or {}
        return 200, True

    def drop(self, name: str, _: bytes) -> tuple[int, Any]:
        self.collections.pop(name).shard.close()
        return 200, True

    def list_aliases(self, _: bytes) -> tuple[int, Any]:
        pairs = self.aliases.items()
        return 200, {"aliases": [{"alias_name": a, "collection_name": c} for a, c in pairs]}

    def change_aliases(self, body: bytes) -> tuple[int, Any]:
        for step in shapes.ChangeAliasesOperation.model_validate_json(body).actions:
            if isinstance(step, models.DeleteAliasOperation):
                del self.aliases[step.delete_alias.alias_name]
            else:
                new = step.create_alias
                if new.alias_name in self.collections or new.alias_name in self.aliases:
                    return 409, "that name is taken"
                self.aliases[new.alias_name] = new.collection_name
        return 200, True

    def index(self, name: str, body: bytes) -> tuple[int, Any]:
        asked = shapes.CreateFieldIndex.model_validate_json(body)
        kind = getattr(asked.field_schema, "value", str(asked.field_schema))
        self.collections[name].indexes[asked.field_name] = {"data_type": kind, "points": 0}
        return 200, {"operation_id": 1, "status": "completed"}

    # --- points ---

    def upsert(self, name: str, body: bytes) -> tuple[int, Any]:
        asked = shapes.PointsBatch.model_validate_json(body).batch
        for vector in asked.vectors:
            assert len(vector) == self.points_of(name).config["vectors"]["size"]
        made = zip(asked.ids, asked.vectors, asked.payloads, strict=True)
        some = [edge.Point(uuid.UUID(str(one)), vector, load) for one, vector, load in made]
        self.points_of(name).shard.update(edge.UpdateOperation.upsert_points(some))
        return 200, {"operation_id": 1, "status": "acknowledged"}

    def delete(self, name: str, body: bytes) -> tuple[int, Any]:
        ids = shapes.PointIdsList.model_validate_json(body).points
        gone = [uuid.UUID(str(one)) for one in ids]
        if gone:
            self.points_of(name).shard.update(edge.UpdateOperation.delete_points(gone))
        return 200, {"operation_id": 1, "status": "completed"}

    def scroll(self, name: str, body: bytes) -> tuple[int, Any]:
        asked = shapes.ScrollRequest.model_validate_json(body)
        offset = None if asked.offset is None else uuid.UUID(str(asked.offset))
        request = edge.ScrollRequest(
            offset=offset, limit=asked.limit, with_payload=False, with_vector=False
        )
        some, after = self.points_of(name).shard.scroll(request)
        points = [{"id": str(one.id)} for one in some]
        return 200, {"points": points, "next_page_offset": after and str(after)}

    def count(self, name: str, body: bytes) -> tuple[int, Any]:
        assert shapes.CountRequest.model_validate_json(body).exact
        return 200, {"count": self.points_of(name).shard.count(edge.CountRequest())}

    def retrieve(self, name: str, body: bytes) -> tuple[int, Any]:
        asked = shapes.PointRequest.model_validate_json(body)
        ids = [uuid.UUID(str(one)) for one in asked.ids]
        some = self.points_of(name).shard.retrieve(ids, True, True)
        return 200, [{"id": str(p.id), "payload": p.payload, "vector": p.vector} for p in some]

    def query(self, name: str, body: bytes) -> tuple[int, Any]:
        asked = shapes.QueryRequest.model_validate_json(body)
        vector = getattr(asked.query, "nearest", asked.query)
        request = edge.QueryRequest(
            limit=asked.limit,
            query=edge.Query.Nearest(vector),
            filter=_filter(asked.filter),
            params=edge.SearchParams(exact=True),
            with_payload=bool(asked.with_payload),
        )
        found = self.points_of(name).shard.query(request)
        return 200, {
            "points": [
                {"id": str(p.id), "version": 0, "score": p.score, "payload": p.payload}
                for p in found
            ]
        }


ONE, POINTS = r"/collections/([^/]+)", r"/collections/([^/]+)/points"
ROUTES = [
    ("GET", "/aliases", "list_aliases"), ("POST", "/collections/aliases", "change_aliases"),
    ("GET", "/collections", "list"), ("GET", ONE + "/exists", "exists"), ("GET", ONE, "read"),
    ("PUT", ONE, "create"), ("PATCH", ONE, "update"), ("DELETE", ONE, "drop"),
    ("PUT", ONE + "/index", "index"), ("PUT", POINTS, "upsert"),
    ("POST", POINTS + "/delete", "delete"), ("POST", POINTS + "/scroll", "scroll"),
    ("POST", POINTS + "/count", "count"), ("POST", POINTS, "retrieve"),
    ("POST", POINTS + "/query", "query"),
]  # fmt: skip


def _filter(asked: models.Filter | None) -> edge.Filter | None:
    if asked is None:
        return None

    def one(test: Any) -> Any:
        if isinstance(test, models.IsEmptyCondition):
            return edge.IsEmptyCondition(test.is_empty.key)
        if isinstance(test.match, models.MatchValue):
            return edge.FieldCondition(test.key, match=edge.MatchValue(test.match.value))
        told = test.range.model_dump(exclude_none=True)
        if isinstance(test.range, models.DatetimeRange):
            told = {key: value.isoformat() for key, value in told.items()}
            return edge.FieldCondition(test.key, range=edge.RangeDateTime(**told))
        return edge.FieldCondition(test.key, range=edge.RangeFloat(**told))

    return edge.Filter(
        must=[one(test) for test in asked.must or []],
        must_not=[one(test) for test in asked.must_not or []],
    )


@contextmanager
def qdrant_server(folder: Path) -> Iterator[tuple[str, Server]]:
    """(its URL, what it has), on loopback, until left."""
    server = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("api-key") != KEY:
                code, result = 401, "no key"
            else:
                try:
                    code, result = server.answer(self.command, urlsplit(self.path).path, body)
                except Exception as error:  # a request of another shape
                    code, result = 400, f"{type(error).__name__}: {error}"
            told = {"result": result, "status": "ok", "time": 0.0}
            if code != 200:
                told = {"status": {"error": result}, "time": 0.0}
            data = json.dumps(told).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}", server
    finally:
        http.shutdown()
        http.server_close()
