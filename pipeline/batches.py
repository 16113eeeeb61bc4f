"""What flows between the rooms: frozen dataclasses of read-only arrays.

    TextBatch -> Sequences -> Pack -> vectors -> part

Shape suffixes, in every file: R rows, S sequences, P packs, T tokens on the flat axis, D width,
H heads, K width of a head, V vocabulary; `S1` = S + 1. `cu_S1` holds S + 1 offsets into T, the
first 0, the last T. A *sequence* is one [CLS] A [SEP] or [CLS] A [SEP] B [SEP]. Rows with equal
input share their sequence, or the sequences of their windows; a rejected row has none. V counts
(row, sequence) pairs: with windows a row has several, else one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from embedmill.pipeline.ragged import offsets, places
from embedmill.schemas.plan import Unit


@dataclass(frozen=True, slots=True)
class TextBatch:
    """The rows of one unit as read and rendered, in input order."""

    unit: Unit
    rows: pa.Table  # the id column and the kept columns, R rows, normalised types
    a: list[str]  # text A, R; "" where the row has a status
    b: list[str] | None  # text B, R; "" = no second text; None = the spec has no pair
    status_R: np.ndarray  # uint8: a code of schemas.columns.Status; 0 = goes on


@dataclass(frozen=True, slots=True)
class Windows:
    """Which stretch of which text each sequence is, where a long text gives several."""

    text_S: np.ndarray  # int32: which of the texts, rising
    number_S: np.ndarray  # int32: of its text's windows, from 0
    span_S2: np.ndarray  # int64: code points of text A, without the prompt, from and to
    weight_S: np.ndarray  # int32: tokens of the text alone


@dataclass(frozen=True, slots=True)
class Sequences:
    """Tokenized sequences on one flat axis, without padding."""

    ids_T: np.ndarray  # int32: token ids, special tokens included
    cu_S1: np.ndarray  # int64: sequence s owns ids_T[cu_S1[s]:cu_S1[s + 1]]
    second_S: np.ndarray  # int32: where segment 1 starts inside the sequence; its length if none
    cut_S: np.ndarray  # int64: code points of A and B after the last kept token; 0 = none cut
    windows: Windows | None = None  # None: one sequence for each text

    @property
    def lengths_S(self) -> np.ndarray:
        """Tokens of each sequence, int64."""
        return np.diff(self.cu_S1)

    def take(self, which: np.ndarray) -> Sequences:
        """Some of the sequences, or all in another order."""
        lengths_S, w = self.lengths_S[which], self.windows
        source_T = places(self.cu_S1[:-1][which], lengths_S)
        return Sequences(
            self.ids_T[source_T], offsets(lengths_S), self.second_S[which], self.cut_S[which],
            w and Windows(*(x[which] for x in (w.text_S, w.number_S, w.span_S2, w.weight_S))),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reused:
    """What the last snapshot has of a unit's inputs: rows of its parts, windows in order."""

    table: pa.Table  # vector columns, n_tokens, n_chars_cut and those of windows
    input_S: np.ndarray  # int32: the input of each row
    provenance: list[dict[str, str]]  # of these parts


@dataclass(frozen=True, slots=True)
class Prepared:
    """One unit ready to encode: everything the encoder and the writer need, and no text."""

    unit: Unit
    rows: pa.Table  # id, kept columns, input_hash; R rows
    status_R: np.ndarray  # uint8
    row_V: np.ndarray  # int32: rows that go on, rising; with windows once for each window
    sequence_V: np.ndarray  # int32: the sequence of each; from S on, a row of what is reused
    sequences: Sequences  # sorted by length, so that equal lengths lie side by side
    cu_P1: np.ndarray  # int64: pack p holds the sequences cu_P1[p] .. cu_P1[p + 1] - 1
    unknown: int  # [UNK] tokens
    reused: Reused
    seconds: float  # spent reading and tokenizing

    def packs(self) -> Iterator[Pack]:
        """The packs in order; each is a view."""
        whole = Pack(self.sequences.ids_T, self.sequences.cu_S1, self.sequences.second_S)
        for first, last in zip(self.cu_P1[:-1], self.cu_P1[1:], strict=True):
            yield whole.part(first, last)


@dataclass(frozen=True, slots=True)
class Pack:
    """The sequences of one forward pass, concatenated: BERT's input form without padding."""

    ids_T: np.ndarray  # int32
    cu_S1: np.ndarray  # int64
    second_S: np.ndarray  # int32: where segment 1 starts inside each sequence; its length if none

    @property
    def positions_T(self) -> np.ndarray:
        """Position ids, int32: 0..n-1 inside each sequence."""
        starts_S = self.cu_S1[:-1].astype(np.int32)
        return np.arange(len(self.ids_T), dtype=np.int32) - np.repeat(starts_S, self.lengths_S)

    @property
    def types_T(self) -> np.ndarray:
        """Segment ids, uint8: 0 for [CLS] A [SEP], 1 for B [SEP]."""
        return (self.positions_T >= np.repeat(self.second_S, self.lengths_S)).view(np.uint8)

    @property
    def lengths_S(self) -> np.ndarray:
        """Tokens of each sequence, int64."""
        return np.diff(self.cu_S1)

    def part(self, first: int, last: int) -> Pack:
        """The sequences first .. last - 1 as a pack of their own; a view."""
        begin, end = self.cu_S1[first], self.cu_S1[last]
        cu_S1 = self.cu_S1[first : last + 1] - begin
        return Pack(self.ids_T[begin:end], cu_S1, self.second_S[first:last])


@dataclass(frozen=True, slots=True)
class Encoded:
    """One unit with its vectors, ready to be written."""

    unit: Unit
    table: pa.Table  # schemas.columns.part_schema: rows with a vector, in input order
    rejects: pa.Table  # schemas.columns.REJECTS: the others
    rows_out: int  # input rows with a vector; with windows the table has more rows
    rows_encoded: int  # went through the model; an equal row of the unit shares their vector
    rows_reused: int  # have the last snapshot's vector
    measured: dict[str, float]  # schemas.manifest.MEASURED: what the encoder saw
    clipped: dict[str, tuple[int, int]]  # int8 columns: values outside the range, and all
    engine: dict[str, str]  # the encoder's
    provenance: list[dict[str, str]]  # all that made vectors of the table, and with what
    prepare_seconds: float
    encode_span: tuple[float, float]  # wall clock, from the first pack to the last vector
    peak_rss_bytes: int  # of the encoder's process
