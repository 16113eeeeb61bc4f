"""What the model is given for one text: tokens, ids, segments, positions, and embedding norms.

It takes the spec's way, the same tokenizer and the same embedding tables, but needs neither the
spec's input nor its output to be there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.load import check_room, check_segments
from embedmill.pipeline.model.folder import ModelFolder, open_model
from embedmill.pipeline.plan.resolve import resolve_model
from embedmill.pipeline.tokens.tokenizer import Tokenizer
from embedmill.pipeline.tokens.unit import is_panic
from embedmill.schemas.columns import Status
from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec import Spec

if TYPE_CHECKING:
    from embedmill.pipeline.contracts import Encoder

# The order in which the engine gives them; each is one (T, D) tensor in fp32.
NORMS = ("token", "segment", "position", "sum", "normed")
MAX_SHOWN = 20  # characters of one token


def explain(spec: Spec, a: str, b: str | None = None) -> dict[str, Any]:
    """The model's input for text A, or for A and B, with one entry a token in every list.

    Norms are of the token, segment and position embeddings, of their sum, and of its LayerNorm,
    which is what layer 0 receives. `n_chars_cut`: characters of prompt, A and B that the model
    does not see. `windows`: where each window of the text is, if long_text makes windows; the
    tokens are those of the first. `reject`: why a row with these texts would get no vector.
    """
    for text in (a, b or ""):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise SpecError("TEXT", "", "explain: the text is not UTF-8") from None
    model = open_model(spec.model.name, spec.model.revision)
    facts = resolve_model(spec, model)
    tokenizer = Tokenizer(
        model.folder,
        max_tokens=facts["max_tokens"],
        truncation=spec.model.truncation,
        parse_specials=spec.model.special_tokens_in_text == "parse",
        segments=facts["types"],
    )
    check_segments(tokenizer, facts["types"], bool(b))
    check_room(tokenizer, facts["prompt"], b is not None, spec.model.stride)
    long_text, b_S = (spec.model.long_text, None) if b is None else ("truncate", [b])
    try:
        sequences = tokenizer.sequences(facts["prompt"], [a], b_S, long_text, spec.model.stride)
    except BaseException as error:
        if not is_panic(error):
            raise
        what = "the model's tokenizer gives up on this text; a run rejects such a row as CRASHED"
        raise SpecError("TEXT", "", f"explain: {what}") from None
    windows = sequences.windows.span_S2.tolist() if sequences.windows else None
    first = sequences.take(np.arange(1))
    pack = Pack(first.ids_T, first.cu_S1, first.second_S)
    cut = int(first.cut_S[0])
    tensors = _encoder(model).embeddings(pack)
    return {
        "tokens": tokenizer.tokens(pack.ids_T),
        "input_ids": pack.ids_T.tolist(),
        "token_type_ids": pack.types_T.tolist(),
        "position_ids": pack.positions_T.tolist(),
        "norms": {
            name: x_TD.norm(dim=1).tolist() for name, x_TD in zip(NORMS, tensors, strict=True)
        },
        "n_tokens": len(pack.ids_T),
        "n_chars_cut": max(cut, 0),
        "windows": windows,
        "prompt": facts["prompt"],
        "max_tokens": facts["max_tokens"],
        "reject": _reject(spec, a, cut),
    }


def explain_text(found: dict[str, Any]) -> str:
    """An aligned table, one row a token, and a line about what was cut."""
    heads = ("position", "segment", "id", "token", *(f"|{name}|" for name in NORMS))
    shown = [_printable(token) for token in found["tokens"]]
    columns: list[list[str]] = [
        [str(n) for n in found["position_ids"]],
        [str(n) for n in found["token_type_ids"]],
        [str(n) for n in found["input_ids"]],
        shown,
        *([f"{norm:.4f}" for norm in found["norms"][name]] for name in NORMS),
    ]
    widths = [max(map(len, [head, *cells])) for head, cells in zip(heads, columns, strict=True)]
    rows = [heads, *zip(*columns, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if n == heads.index("token") else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    cut, most = found["n_chars_cut"], found["max_tokens"]
    said = f"{cut:,} characters were cut" if cut else "nothing was cut"
    lines += ["", f"{found['n_tokens']} tokens of at most {most}; {said}"]
    if (windows := found["windows"]) and len(windows) > 1:
        spans = ", ".join(f"{start}-{end}" for start, end in windows[:MAX_SHOWN])
        more = ", …" if len(windows) > MAX_SHOWN else ""
        lines.append(f"{len(windows)} windows, the first is shown; characters {spans}{more}")
    if found["prompt"]:
        lines.append(f"prompt before text A: {found['prompt']!r}")
    if found["reject"]:
        lines.append(f"a row with this text would get no vector: {found['reject']}")
    return "\n".join(lines)


def _encoder(model: ModelFolder) -> Encoder:
    """The engine on the CPU in fp32: embeddings are fp32 in every precision."""
    from embedmill.pipeline.encode.load import load_encoder

    threads = len(os.sched_getaffinity(0))
    return load_encoder(model.folder, device="cpu", precision="exact", threads=threads)


def _reject(spec: Spec, a: str, cut: int) -> str | None:
    if not a.strip() and spec.input.on_empty != "encode":
        return Status.EMPTY_TEXT.name
    too_long = cut < 0 or (cut and spec.model.long_text == "reject")
    return Status.TEXT_TOO_LONG.name if too_long else None


def _printable(token: str | None) -> str:
    """A token as text that cannot move the cursor, and no longer than the table bears."""
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in token or "")
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
