"""Brings a plan's tokenizer and encoder into this process, checked to be the plan's."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedmill.pipeline.model.claims import refuse_missing_ends
from embedmill.pipeline.model.folder import DENSE_MARK, ModelFolder, open_model
from embedmill.pipeline.plan.resolve import resolve_device
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.schemas.errors import ModelError, SpecError
from embedmill.schemas.plan import Plan

if TYPE_CHECKING:
    from embedmill.pipeline.contracts import Loaded


@functools.lru_cache(maxsize=4)
def _open(name: str, revision: str | None, digest: str) -> ModelFolder:
    """The plan's model on this machine; ModelError if its files are not the planned ones."""
    model = open_model(name, revision)
    if model.digest != digest:
        raise ModelError(
            "MODEL_DIFFERS",
            str(model.folder),
            "is not the model of the plan on this machine",
            "install the same model everywhere, or pin model.revision",
        )
    return model


def model_of(plan: Plan) -> ModelFolder:
    """The plan's model on this machine, checked once per process."""
    return _open(plan.model["name"], plan.model["revision"], plan.model["digest"])


def folder_of(plan: Plan) -> Path:
    """Where its config.json, weights and tokenizer are."""
    return model_of(plan).folder


def load_tokenizer(plan: Plan) -> Tokenizer:
    """The tokenizer of the plan; ModelError if it knows ids that the model does not."""
    tokenizer = Tokenizer(
        folder_of(plan),
        max_tokens=plan.model["max_tokens"],
        truncation=plan.identity["truncation"],
        parse_specials=plan.identity["special_tokens_in_text"] == "parse",
        segments=plan.model["types"],
    )
    if tokenizer.largest_id >= plan.model["vocabulary"]:
        raise ModelError(
            "TOKENIZER_MISMATCH",
            plan.model["folder"],
            f"its tokenizer gives ids up to {tokenizer.largest_id}, "
            f"its token table has {plan.model['vocabulary']} rows",
            "use the tokenizer that the model was trained with",
        )
    pair = plan.identity["pair"] is not None
    check_segments(tokenizer, plan.model["types"], pair)
    refuse_missing_ends(folder_of(plan), *tokenizer.ends())
    check_room(tokenizer, plan.model["prompt"], pair, plan.identity["stride"])
    return tokenizer


def check_segments(tokenizer: Tokenizer, types: int, pair: bool) -> None:
    """ModelError if text B is in a segment that the model's table does not have."""
    second = tokenizer.form.second_type
    if pair and not tokenizer.form.pairs:
        what, do = "puts pairs into a form that is not BERT's", "encode single texts with it"
        raise ModelError("TOKENIZER_UNSUPPORTED", "tokenizer.json", what, do)
    if types and pair and second >= types:
        what = f"its tokenizer puts text B into segment {second}, its model knows {types} segments"
        do = "use the tokenizer that the model was trained with"
        raise ModelError("TOKENIZER_MISMATCH", "model", what, do)


def check_memory(model: ModelFolder, device: str) -> None:
    """ModelError if the weights alone cannot fit; they are read in fp32, on every device."""
    from embedmill.pipeline.encode.load import device_memory

    needed, there = 4 * model.parameters, min(available_memory(), device_memory(device))
    if needed > there:
        what = f"its {model.parameters:,} parameters need {needed / 2**30:.1f} GiB in fp32"
        what += f", there are {there / 2**30:.1f}"
        do = "use a larger machine or a smaller model"
        raise ModelError("MEMORY", str(model.folder), what, do)


def available_memory() -> float:
    """Bytes that this process may still take: of the machine, or of its control group."""
    found = [math.inf]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        found.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return min(found)


def check_room(tokenizer: Tokenizer, prompt: str, pair: bool, stride: int) -> None:
    """SpecError if a sequence has no room for text beside the prompt, or a window for new text.

    And for a prompt that spells a special token, which would be read as text.
    """
    if word := tokenizer.special_in(prompt):
        what = f"the prompt spells the special token {word}, which is read as text there"
        do = "reword it, or set model.special_tokens_in_text: parse"
        raise SpecError("PROMPT_SPECIAL", "", f"input.prompt: {what}; {do}")
    room = tokenizer.form.room(tokenizer.max_tokens, pair)
    if room < 1:
        what = f"{tokenizer.max_tokens} leaves no room for text between the special tokens"
        raise SpecError("MAX_TOKENS", "", f"model.max_tokens: {what}; raise it")
    tokens = tokenizer.count(prompt) if prompt else 0
    if tokens >= room:
        what = f"the prompt is {tokens} tokens long, and max_tokens {tokenizer.max_tokens} leaves"
        said = f"input.prompt: {what} room for {room}; shorten it, or raise model.max_tokens"
        raise SpecError("PROMPT_TOO_LONG", "", said)
    if stride >= room - tokens:
        what = f"{stride} leaves no new token for a window, which holds {room - tokens} of its text"
        raise SpecError("STRIDE", "", f"model.stride: {what}; lower it")


def load_encoder(plan: Plan) -> Loaded:
    """Loads the plan's encoder, and the heads and dense layers that its columns ask for."""
    from embedmill.pipeline.contracts import Heads, Loaded
    from embedmill.pipeline.encode import load as engines

    settings, model = plan.settings, model_of(plan)
    check_memory(model, settings.device)
    encoder = engines.load_encoder(
        folder_of(plan),
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
    )
    heads, tail = Heads(), None
    if sources := {column.source for column in plan.columns} & {"scores", "sparse"}:
        heads = engines.load_heads(
            folder_of(plan), sources, device=settings.device, precision=settings.precision
        )
    if any(column.pooling.endswith(DENSE_MARK) for column in plan.columns):
        tail = engines.load_tail(model.dense, settings.device)
    exact = replace(plan, settings=replace(settings, precision="exact"))
    return Loaded(encoder, functools.cache(lambda: load_encoder(exact)), heads, tail)


def on_this_machine(plan: Plan) -> Plan:
    """The plan with the device that is here: outputs travel from GPUs to laptops."""
    settings = plan.settings
    device = settings.device if settings.device == "cpu" else resolve_device("auto")
    threads = max(1, min(settings.threads, len(os.sched_getaffinity(0))))
    return replace(plan, settings=replace(settings, device=device, threads=threads))
