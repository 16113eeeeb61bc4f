"""Thirty-two fixed texts that an encoder must get right, before it starts and while it works.

What transformers gives for them, padded, in fp32, is kept in the output, for each fingerprint, and
in the user's cache, under the digest of what made it: another output of the model need not ask.
Each encoder is compared with it before its first unit. After each unit it encodes a few of them
again, and these must have the very bits of the first time: an encoder that drifts (a flipped bit in
its weights, a failing device) stops before that unit is committed.

What is compared is the mean of all tokens of the layer-0 input and of the last layer, whatever the
output columns are. S texts, D width, T tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedmill.pipeline.batches import Pack, Sequences
from embedmill.pipeline.contracts import Loaded
from embedmill.pipeline.encode.native.library import cache_folder
from embedmill.pipeline.identity import digest
from embedmill.pipeline.load import folder_of, load_tokenizer
from embedmill.pipeline.store.ipc import ipc_bytes
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.errors import ModelError
from embedmill.schemas.plan import Plan

# Least cosine with the reference. None is about quality: random or shifted ids, a missing
# segment, other weights or a broken kernel are far below; honest bf16 is far above. Of MiniLM the
# worst in bf16 has 0.99996, in int8 0.978: a word of one token.
LEAST_COSINE = {"exact": 0.99999, "fast": 0.99, "int8": 0.95}
AGAIN = 4  # texts after each unit

WORDS = (
    "lemon", "river", "The quick brown fox jumps over the lazy dog.", "42", "3.14159 and 2.71828",
    "e-mail: someone@example.org", "naïve café, Ångström, Straße", "Привет, мир", "مرحبا بالعالم",
    "你好，世界", "今日は良い天気", "안녕하세요", "नमस्ते दुनिया", "שלום עולם", "👍🏽 👩‍👩‍👧",
    "a", "?!", "UPPER lower MiXeD", "snake_case and camelCase and kebab-case",
    "https://example.org/a/b?c=d&e=f#g", "[CLS] is a word here, and so is [SEP]", "tab\tand\nline",
)  # fmt: skip
SENTENCE = "A text of some length, so that positions far from the first are looked up as well. "
TEXTS = [*WORDS, *(SENTENCE * n for n in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89))]


def make_canary(store: Store, plan: Plan) -> None:
    """Gives this output the reference's answers, if it has none of this fingerprint yet."""
    if store.size(canary_name(plan)) is not None:
        return
    kept = cache_folder() / "reference" / f"{_made_of(plan)}.arrow"
    answers = _read(kept)
    if answers is None:
        answers = _ask(plan)
        _keep(kept, answers)
    store.create(canary_name(plan), answers)


def _ask(plan: Plan) -> bytes:
    """What the reference gives for the texts."""
    from embedmill.pipeline.encode.reference import Reference

    reference = Reference(
        folder_of(plan),
        max_tokens=plan.model["max_tokens"],
        truncation=plan.identity["truncation"],
        parse_specials=plan.identity["special_tokens_in_text"] == "parse",
    )
    try:
        input_SD, hidden_SD = reference.means(*_texts(plan))
    except Exception as error:  # transformers raises all kinds; here they have one meaning
        raise ModelError(
            "REFERENCE",
            str(folder_of(plan)),
            f"transformers cannot encode with it ({(str(error).splitlines() or [''])[0][:200]})",
            "does tokenizer_config.json name its tokenizer_class?",
        ) from None
    return ipc_bytes(pa.table({"input": list(input_SD), "hidden": list(hidden_SD)}))


def _made_of(plan: Plan) -> str:
    """The digest of all that decides about the reference's answers."""
    made_of = [
        plan.model["digest"],
        plan.model["max_tokens"],
        plan.identity["truncation"],
        plan.identity["special_tokens_in_text"],
        _texts(plan),
        [version(name) for name in ("embedmill", "torch", "transformers", "tokenizers")],
        Path(__file__).with_name("encode").joinpath("reference.py").read_text("utf-8"),
    ]
    return digest(made_of)[:32]


def _read(kept: Path) -> bytes | None:
    """The answers in a file of the cache; None if it is not there or not what was written."""
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            return data[32:]
    return None


def _keep(kept: Path, answers: bytes) -> None:
    """Puts the answers into the cache, whole; a home that takes no files has none."""
    if not kept.is_absolute():  # there is no home
        return
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            whole = Path(scratch, "answers")
            whole.write_bytes(hashlib.sha256(answers).digest() + answers)
            whole.replace(kept)


class Canary:
    """An encoder's own proof; made right after it is loaded."""

    def __init__(self, plan: Plan, loaded: Loaded) -> None:
        """Compares the encoder with the reference; ModelError if it is not the planned model."""
        self._loaded, self._turn = loaded, 0
        self._packs = list(_packs(load_tokenizer(plan).encode(*_texts(plan))))
        self._first = [self._means(pack) for pack in self._packs]
        self._compare(plan)

    def check(self) -> None:
        """Encodes the next few texts again; ModelError if a single bit is another."""
        for _ in range(AGAIN):
            n = self._turn % len(self._packs)
            self._turn += 1
            if not np.array_equal(self._means(self._packs[n]), self._first[n]):
                raise ModelError(
                    "DRIFT",
                    self._loaded.engine["device"],
                    "an encoder gives other vectors for equal texts than when it started",
                    "its last unit is not committed; suspect memory or the device, run again",
                )

    def _compare(self, plan: Plan) -> None:
        store = open_store(plan.output)
        make_canary(store, plan)  # on Ray the driver has
        data = store.read(canary_name(plan))
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        least = LEAST_COSINE[plan.settings.precision]
        wanted = [np.stack(table[name].to_numpy()) for name in ("input", "hidden")]
        cosines_2S = np.array(
            [_cosine(w, g) for w, g in zip(wanted, np.swapaxes(self._first, 0, 1), strict=True)]
        )
        known_S = np.isfinite(wanted[0][:, 0])  # not what transformers refuses to truncate
        if not (known_S.any() and (cosines_2S[:, known_S] >= least).all()):  # so that NaN fails
            raise ModelError(
                "CANARY",
                plan.model["folder"],
                f"this encoder is not the reference: least cosine {np.min(cosines_2S):.6f} "
                f"over {len(TEXTS)} fixed texts, wanted {least}",
                "run verify --sample on what is there, and report it with model and machine",
            )

    def _means(self, pack: Pack) -> np.ndarray:
        hidden = self._loaded.encoder.encode(pack)
        return np.stack(
            [states.float().mean(0).cpu().numpy() for states in (hidden.input_TD, hidden.hidden_TD)]
        )


def canary_name(plan: Plan) -> str:
    """The object that holds the reference's answers for this fingerprint."""
    content = hashlib.sha256("\0".join(TEXTS).encode()).hexdigest()[:8]
    return f"_embed/canary/{plan.fingerprint[:32]}-{content}.arrow"


def _texts(plan: Plan) -> tuple[list[str], list[str] | None]:
    """The texts; with a second one for every other, if the job has pairs."""
    if plan.identity["pair"] is None:
        return TEXTS, None
    return TEXTS, [text if n % 2 else "" for n, text in enumerate(reversed(TEXTS))]


def _packs(sequences: Sequences) -> Iterator[Pack]:
    """One pack a text: the same shapes each time, so that equal bits can be asked for."""
    for first, last, second in zip(
        sequences.cu_S1[:-1], sequences.cu_S1[1:], sequences.second_S, strict=True
    ):
        yield Pack(sequences.ids_T[first:last], np.array([0, last - first]), np.array([second]))


def _cosine(a_SD: np.ndarray, b_SD: np.ndarray) -> np.ndarray:
    a_SD, b_SD = a_SD.astype(np.float64), b_SD.astype(np.float64)
    norms = np.linalg.norm(a_SD, axis=1) * np.linalg.norm(b_SD, axis=1)
    return (a_SD * b_SD).sum(1) / norms
