"""A hub of data sets on the loopback, as far as reading asks for: files are a folder's."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

TOKEN = "a-token-of-the-test"
REPO = "/api/datasets/org/name"


class _Handler(BaseHTTPRequestHandler):
    """Requests of the hub's client. `server.files` is the folder; `server.asked` what was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        if self.server.broken:
            return self._answer(*self.server.broken)
        if path == REPO or re.fullmatch(f"{REPO}/revision/(main|v1)", path):
            return self._answer(200, {"id": "org/name", "sha": "0" * 40, "siblings": []})
        if found := re.fullmatch(f"{REPO}/tree/(?:main|v1)/?(.*)", path):
            return self._tree(found[1])
        if found := re.fullmatch("/datasets/org/name/resolve/(?:main|v1)/(.*)", path):
            return self._range(self.server.files / found[1])
        return self._answer(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(self.path)
        asked = json.loads(body) if body.startswith("{") else parse_qs(body)
        names = asked["paths"] if isinstance(asked["paths"], list) else [asked["paths"]]
        there = [name for name in names if (self.server.files / name).exists()]
        return self._answer(200, [self._about(self.server.files / name) for name in there])

    def _tree(self, path: str) -> None:
        folder = self.server.files / path
        if not folder.is_dir():
            return self._answer(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound"})
        return self._answer(200, [self._about(path) for path in sorted(folder.rglob("*"))])

    def _about(self, path: Path) -> dict:
        name = path.relative_to(self.server.files).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "1" * 40, "size": 0, "path": name}
        data = path.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"type": "file", "oid": oid, "size": len(data), "path": name}

    def _range(self, path: Path) -> None:
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self._answer(206, path.read_bytes()[first : last + 1])

    def _answer(self, status: int, body: object, headers: dict | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.server.sent += len(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serve(files: Path) -> Iterator[ThreadingHTTPServer]:
    """A hub with one data set, org/name, whose files are those of a folder, at main and at v1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files, server.asked, server.sent, server.broken = files, [], 0, None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
