"""Who is who: hashes of an encoding, of one row's input and of a unit. Pure functions."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from embedmill.schemas.plan import Shard, Slice

# Raise by hand when a change moves vectors for the same model and spec.
NUMERICS = 3
_SIZE = struct.Struct("<Q").pack


def canonical(value: Any) -> bytes:
    """One byte string for equal JSON values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """sha256 of canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def input_hash(a: bytes, b: bytes) -> bytes:
    """First half of sha256 over length-prefixed A, whether there is a B, length-prefixed B."""
    told = _SIZE(len(a)) + a + (b"\1" if b else b"\0") + _SIZE(len(b)) + b
    return hashlib.sha256(told).digest()[:16]


def file_version(shard: Shard) -> list[Any]:
    """What tells one version of one file from all others."""
    return [shard.uri, shard.size, shard.version, shard.footer]


def unit_key(slices: tuple[Slice, ...], fingerprint: str, layout: str) -> str:
    """First half of sha256 over input versions, row ranges, fingerprint and layout; 32 hex.

    A shard's name is in it because default ids are made of it.
    """
    pieces = [[*file_version(s.shard), s.shard.name, s.start, s.rows] for s in slices]
    return digest([pieces, fingerprint, layout])[:32]
