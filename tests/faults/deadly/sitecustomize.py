"""Makes rows deadly. Only on the path of processes that a test starts, never in the product.

EMBEDMILL_TEST_DEADLY holds pairs of a kind and what is deadly: "tokens:fatal" kills whoever
tokenizes a text with that word, "encode:17" whoever encodes that token, "memory:10" whoever encodes
more than so many rows at once, "read:b.parquet" whoever reads that shard, "load:" whoever loads an
encoder. "wrong:1" changes an encoder's weights when it is loaded, "wrong:2" after its first unit,
and "say:" prints.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

DEADLY = [pair.split(":", 1) for pair in os.environ.get("EMBEDMILL_TEST_DEADLY", "").split(",")]

TEXTS = 32  # of the canary


def die(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def before(module: Any, name: str, look: Any) -> None:
    """Calls `look` with the arguments of a function before each of its calls."""
    does = getattr(module, name)

    def both(*arguments: Any, **named: Any) -> Any:
        look(*arguments)
        return does(*arguments, **named)

    setattr(module, name, both)


def tokens(module: Any, word: str) -> None:
    def look(_: Any, a: list[str], *more: Any) -> None:
        if any(word in text for text in a):
            die(signal.SIGSEGV)

    before(module.Tokenizer, "encode", look)


def encode(module: Any, token: str) -> None:
    def look(plan: Any, encoder: Any, prepared: Any) -> None:
        if int(token) in prepared.sequences.ids_T:
            die(signal.SIGKILL)

    before(module, "unit_vectors", look)


def memory(module: Any, most: str) -> None:
    def look(plan: Any, encoder: Any, prepared: Any) -> None:
        if len(prepared.row_V) > int(most):
            raise MemoryError

    before(module, "unit_vectors", look)


def read(module: Any, name: str) -> None:
    def look(file: Any, piece: Any, *more: Any) -> None:
        if piece.shard.name == name:
            die(signal.SIGBUS)

    before(module, "_stretch", look)


def load(module: Any, _: str) -> None:
    before(module, "load_encoder", lambda *__: die(signal.SIGILL))


def wrong(module: Any, when: str) -> None:
    does = module.load_encoder

    def load_encoder(plan: Any) -> Any:
        loaded = does(plan)
        encoder = loaded.encoder
        encode, calls = encoder.encode, []

        def encode_wrong(pack: Any) -> Any:
            calls.append(pack)
            if when == "1" or len(calls) > TEXTS:
                encoder.ends.token[:, 3] *= 1.5
            return encode(pack)

        encoder.encode = encode_wrong
        return loaded

    module.load_encoder = load_encoder


def say(module: Any, _: str) -> None:
    before(module.Tokenizer, "encode", lambda *__: print("a word on stdout", flush=True))


KINDS = {
    "tokens": ("embedmill.pipeline.tokens.tokenizer", tokens),
    "encode": ("embedmill.pipeline.vectors.unit", encode),
    "memory": ("embedmill.pipeline.vectors.unit", memory),
    "read": ("embedmill.pipeline.read.slices", read),
    "load": ("embedmill.pipeline.load", load),
    "wrong": ("embedmill.pipeline.load", wrong),
    "say": ("embedmill.pipeline.tokens.tokenizer", say),
}


class Finder:
    """Changes our modules right after they are made."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        mine = [(KINDS[kind][1], what) for kind, what in DEADLY if KINDS[kind][0] == name]
        spec = PathFinder.find_spec(name, path) if mine else None
        if spec is None:
            return None
        make = spec.loader.exec_module

        def make_deadly(module: ModuleType) -> None:
            make(module)
            for change, what in mine:
                change(module, what)

        spec.loader.exec_module = make_deadly
        return spec


if DEADLY != [[""]]:
    sys.meta_path.insert(0, Finder())
