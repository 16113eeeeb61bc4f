"""Quality gates: what a snapshot as a whole must look like before its manifest is made.

Single rows are guarded elsewhere; these catch a night that went wrong as a whole: the wrong
language for the vocabulary, texts that lost most of their words, a model that says the same of
everything.
"""

from __future__ import annotations

import math

import pyarrow as pa

from embedmill.schemas.errors import QualityError
from embedmill.schemas.manifest import PartRecord
from embedmill.schemas.quality import Gate, Quality
from embedmill.schemas.terminal import say

WORDS = {
    "unk_rate": "of the tokens are [UNK]: is this the vocabulary of these texts' language?",
    "cut_rate": "of the rows lost text to max_tokens: see n_chars_cut, and model.long_text",
    "reject_rate": "of the rows have no vector: see the rejects",
    "collapse": "of the sequences have the vector of one with other ids: is this the right model?",
    "shrink": "of the last snapshot's rows are gone: is the input whole?",
    "norm_spread": "is the spread of the vectors' norms over their mean: is this the right model?",
}


def measure(carried: pa.Table, records: list[PartRecord]) -> dict[str, float]:
    """The gates' figures over carried and new parts, and `rows`, those of the input."""

    def total(name: str) -> float:
        return sum(carried.column(name).to_pylist()) + sum(getattr(r, name) for r in records)

    rows, out, sequences = total("rows_in"), total("rows_out"), total("sequences")
    mean = total("norm_sum") / max(sequences, 1)
    variance = max(total("norm_squares") / max(sequences, 1) - mean**2, 0.0)
    return {
        "rows": rows,
        "unk_rate": total("tokens_unknown") / max(total("tokens_encoded"), 1),
        "cut_rate": total("rows_cut") / max(out, 1),
        "reject_rate": (rows - out) / max(rows, 1),
        "collapse": total("collapsed") / max(sequences, 1),
        "norm_spread": math.sqrt(variance) / mean if mean else 0.0,
    }


def shrink(rows: int, before: int) -> float:
    """The share of the last snapshot's rows that are gone; 0 if there are more, or was none."""
    return max(before - rows, 0) / max(before, 1)


def judge(
    quality: Quality, carried: pa.Table, records: list[PartRecord], output: str, before: int = 0
) -> list[str]:
    """Returns the warnings, and says them on stderr; QualityError if a gate fails.

    `before`: rows of the last snapshot's input, 0 if there is none.
    """
    warnings, failures = [], []
    figures = measure(carried, records)
    figures["shrink"] = shrink(figures.pop("rows"), before)
    for name, figure in figures.items():
        gate = getattr(quality, name)
        gate = gate if isinstance(gate, Gate) else Gate(fail=gate)
        line = f"{name} {figure:.4f} {WORDS[name]}"
        if gate.fail is not None and figure > gate.fail:
            failures.append(f"{line} (fails above {gate.fail})")
        elif gate.warn is not None and figure > gate.warn:
            warnings.append(f"{line} (warns above {gate.warn})")
    if failures:
        raise QualityError(
            "QUALITY_GATE",
            output,
            "; ".join(failures),
            "parts stay, no manifest was made; mend it, or set output.quality and run again",
        )
    for line in warnings:
        say(f"{line}")
    return warnings
