"""A proxy for HTTP whose script may delay, answer, change or swallow what passes.

One request a connection, so that whatever is done to one harms no other.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    target: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, whatever its case."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def to_bytes(self) -> bytes:
        """The request for a server that shall close the connection after it."""
        own = {"connection": "close", "content-length": str(len(self.body))}
        kept = [*own.items(), *(pair for pair in self.headers if pair[0].lower() not in own)]
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{k}: {v}" for k, v in kept)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


Forward = Callable[[Request], bytes]  # gives the server's whole answer
# What the client gets: bytes, which may be half an answer; then, or without any, a reset (None).
Script = Callable[[Request, Forward], "bytes | Torn | None"]


@dataclass(frozen=True)
class Torn:
    """An answer, or some of it, after which the connection is reset."""

    data: bytes


def answer(status: str, body: bytes = b"", headers: str = "") -> bytes:
    """An answer of our own: `503 Slow Down`."""
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{headers}"
    return head.encode() + b"\r\n" + body


def plainly(request: Request, forward: Forward) -> bytes:
    """A script that does nothing."""
    return forward(request)


@dataclass
class Proxy:
    """Listens on loopback while entered; the script may be changed meanwhile."""

    upstream: int  # the server's port, perhaps set later
    script: Script = plainly
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    torn_bodies: int = 0  # so many requests are reset in the middle of their bodies

    def __enter__(self) -> Proxy:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client:
            try:
                request = _read(client, self)
                if request is None:
                    return
                self.requests.append(request)
                data = self.script(request, self._forward)
                if isinstance(data, Torn):
                    client.sendall(data.data)
                    time.sleep(0.05)  # a reset also takes what is still on its way
                if isinstance(data, bytes):
                    client.sendall(data)
                else:
                    _reset(client)
            except OSError:
                pass  # the client has gone: its own timeout

    def _forward(self, request: Request) -> bytes:
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            server.sendall(request.to_bytes())
            return b"".join(iter(lambda: server.recv(1 << 16), b""))


def _reset(client: socket.socket) -> None:
    """The connection ends with RST, and not in order, when it is closed."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _read(client: socket.socket, proxy: Proxy) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := client.recv(1 << 16)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines)]
    request = Request(method, target, headers, b"")
    if (request.header("expect") or "").lower() == "100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    size = int(request.header("content-length") or 0)
    chunks = [body]
    if size and proxy.torn_bodies:
        proxy.torn_bodies -= 1
        _reset(client)
        return None
    while (got := sum(map(len, chunks))) < size:
        if not (more := client.recv(min(1 << 20, size - got))):
            return None
        chunks.append(more)
    return replace(request, body=b"".join(chunks))


def gcs_writes(request: Request, forward: Forward) -> bytes:
    """Says the one request that fake-gcs-server lacks, PUT of the XML API, in the JSON API."""
    if request.method != "PUT":
        return forward(request)
    _, bucket, name = urlsplit(request.target).path.split("/", 2)
    target = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={quote(unquote(name))}"
    if (generation := request.header("x-goog-if-generation-match")) is not None:
        target += f"&ifGenerationMatch={generation}"
    edge = b"edge-of-a-part"
    about = json.dumps({"name": unquote(name)}).encode()
    parts = b"content-type: application/json\r\n\r\n" + about
    data = b"content-type: application/octet-stream\r\n\r\n" + request.body
    body = b"".join(b"--%s\r\n%s\r\n" % (edge, part) for part in (parts, data)) + b"--%s--" % edge
    kind = ("content-type", f"multipart/related; boundary={edge.decode()}")
    host = ("host", request.header("host") or "")
    said = forward(Request("POST", target, [host, kind], body))
    head, _, told = said.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        return said
    found = json.loads(told)
    return answer("200 OK", headers=f'etag: "{found["etag"]}"\r\n')
