"""The reference that vectors are compared with: transformers itself, padded, fp32, on the CPU.

Nothing that computes is shared with the engine: the tokenizer's Python layer, AutoModel with a
mask, and pooling over masked tokens. Slow, and only for samples.
Shapes: S texts, L tokens with padding, D width.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedmill.pipeline.encode.auto import read_model
from embedmill.pipeline.encode.heads.dense import read_dense
from embedmill.pipeline.model.architectures import by_longest
from embedmill.pipeline.model.sentence_folder import read_object, read_sentence_config
from embedmill.pipeline.tokens.special_tokens import as_text, lower
from embedmill.schemas.errors import ModelError

if TYPE_CHECKING:
    from embedmill.schemas.plan import VectorColumn

BATCH = 16

# pooling -> (states (S, L, D), mask (S, L)) -> (S, D); padding is on the right
POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda states, mask: states[:, 0],
    "mean": lambda states, mask: (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
    "max": lambda states, mask: states.masked_fill(mask[..., None] == 0, -torch.inf).amax(1),
    "last": lambda states, mask: states[torch.arange(len(states)), mask.sum(1) - 1],
    "mean_sqrt_len": lambda states, mask: (
        (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).sqrt()
    ),
    "weighted_mean": lambda states, mask: POOLINGS["mean"](states, mask * mask.cumsum(1)),
}
# activation of a head -> what it does to logits, (S, N)
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda logits: logits,
    "sigmoid": lambda logits: 1 / (1 + (-logits).exp()),
    "log1p_relu": lambda logits: logits.clamp(min=0).log1p(),
    "log1p_log1p_relu": lambda logits: logits.clamp(min=0).log1p().log1p(),
}


class Reference:
    """transformers' own tokenizer and model of a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        truncation: str,
        parse_specials: bool,
        dense: Sequence[Path] = (),
    ) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()  # ours is the only voice on stderr
        logging.set_verbosity_error()
        self.max_tokens, self.truncation = max_tokens, truncation
        self.split_specials = not parse_specials
        self.folder = folder
        # What is compared with must not depend on what it is compared beside.
        self.batch = 1 if by_longest(read_object(folder / "config.json")) else BATCH
        self.tokenizer = self._load("AutoTokenizer")
        self.models: dict[str, Any] = {}  # class -> model, loaded when a column asks for it
        if read_sentence_config(folder).get("do_lower_case"):
            lower(self.tokenizer.backend_tokenizer)
        if self.split_specials:
            as_text(self.tokenizer.backend_tokenizer)
        self.tail = read_dense(dense, "cpu")
        self.tokenizer.padding_side = self.tokenizer.truncation_side = "right"

    def _load(self, kind: str, **options: Any) -> Any:
        """An Auto class of transformers from the folder."""
        import transformers

        try:
            return getattr(transformers, kind).from_pretrained(
                self.folder, trust_remote_code=False, local_files_only=True, **options
            )
        except Exception as error:  # transformers raises all kinds; each has one meaning here
            what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(
                "REFERENCE",
                str(self.folder),
                f"transformers cannot load it ({what})",
                "see its files",
            ) from None

    def _run(self, kind: str, batch: dict[str, torch.Tensor]) -> Any:
        """One forward pass of a model class; fp32."""
        if kind not in self.models:
            if kind == "AutoModel":
                self.models[kind], _ = read_model(self.folder)
            else:
                self.models[kind] = self._load(kind, dtype=torch.float32).eval()
        takes = inspect.signature(self.models[kind].forward).parameters
        given = {name: ids for name, ids in batch.items() if name in takes}
        return self.models[kind](**given, output_hidden_states=True)

    @torch.inference_mode()
    def encode(
        self, a: Sequence[str], b: Sequence[str] | None, columns: Sequence[VectorColumn]
    ) -> dict[str, Any]:
        """The values of texts, fp32 (S, dim) a column; an empty B gives the single form.

        Of tokens a list of S arrays, each (its tokens, dim).

        A row that transformers refuses to truncate has NaN.
        """
        vectors: dict[str, Any] = {
            c.name: [np.full((1, c.dim), np.nan, np.float32)] * len(a)
            if c.pooling == "tokens"
            else np.full((len(a), c.dim), np.nan, np.float32)
            for c in columns
        }
        for paired in (False, True):
            rows = [s for s in range(len(a)) if bool(b is not None and b[s]) == paired]
            for first in range(0, len(rows), self.batch):
                together = rows[first : first + self.batch]
                for some in self._together(together, a, b if paired else None):
                    texts = [a[s] for s in some]
                    pairs = [b[s] for s in some] if b is not None and paired else None
                    for name, found in self._forward(texts, pairs, columns).items():
                        for row, value in zip(some, found, strict=True):
                            vectors[name][row] = value
        return vectors

    @torch.inference_mode()
    def means(self, a: Sequence[str], b: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """The mean over each text's tokens of the layer-0 input and of the last layer, (S, D).

        A row that transformers refuses to truncate has NaN.
        """
        found: dict[int, list[np.ndarray]] = {}
        for n, text in enumerate(a):
            pair = [b[n]] if b is not None and b[n] else None
            for _ in self._together([0], [text], pair):
                output = self._run("AutoModel", self.tokens([text], pair))
                states = (output.hidden_states[0], output.last_hidden_state)
                found[n] = [one[0].mean(0).numpy() for one in states]
        width = len(next(iter(found.values()))[0])
        refused = [np.full(width, np.nan, np.float32)] * 2
        both_S2D = np.array([found.get(n, refused) for n in range(len(a))])
        return both_S2D[:, 0], both_S2D[:, 1]

    def _together(
        self, rows: list[int], a: Sequence[str], b: Sequence[str] | None
    ) -> list[list[int]]:
        """The rows as one batch; without those that cannot be truncated, if there are any."""
        if b is None or self.truncation == "longest_first":
            return [rows]
        good = []
        for row in rows:
            try:
                self.tokens([a[row]], [b[row]])
                good.append(row)
            except Exception:  # the Rust side raises plain Exception
                continue
        return [good] if good else []

    def tokens(self, a: list[str], b: list[str] | None) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and token_type_ids, padded, as the model wants them."""
        return dict(
            self.tokenizer(
                a, b,
                padding=True, truncation=self.truncation if b is not None else True,
                max_length=self.max_tokens, split_special_tokens=self.split_specials,
                return_tensors="pt",
            )
        )  # fmt: skip

    def _forward(
        self, a: list[str], b: list[str] | None, columns: Sequence[VectorColumn]
    ) -> dict[str, np.ndarray | list[np.ndarray]]:
        batch = self.tokens(a, b)
        mask_SL = batch["attention_mask"]
        run = functools.cache(lambda kind: self._run(kind, batch))  # one pass for all columns
        found: dict[str, np.ndarray | list[np.ndarray]] = {}
        for column in columns:
            values = self._values(column, mask_SL, run)[..., : column.dim]
            if column.normalize:
                values = torch.nn.functional.normalize(values, dim=-1)
            if column.pooling == "tokens":
                found[column.name] = [
                    one[:n].numpy() for one, n in zip(values, mask_SL.sum(1).tolist(), strict=True)
                ]
            else:
                found[column.name] = values.numpy()
        return found

    def _values(
        self, column: VectorColumn, mask_SL: torch.Tensor, run: Callable[[str], Any]
    ) -> torch.Tensor:
        """A column before dim and normalize: (S, D), of tokens (S, L, D)."""
        if column.source == "scores":
            logits = run("AutoModelForSequenceClassification").logits
            return ACTIVATIONS[column.pooling](logits)
        if column.source == "sparse":
            logits = run("AutoModelForMaskedLM").logits
            return POOLINGS["max"](ACTIVATIONS[column.pooling](logits), mask_SL)
        output = run("AutoModel")
        if column.pooling == "pooler":
            return output.pooler_output
        of_input = column.source == "input"
        states = output.hidden_states[0] if of_input else output.last_hidden_state
        if column.pooling == "tokens":
            return states
        names, _, dense = column.pooling.partition(">")
        pooled_SD = torch.cat([POOLINGS[n](states, mask_SL) for n in names.split("+")], 1)
        return self.tail(pooled_SD) if dense else pooled_SD
