"""What a billion rows take and cost on hardware that has been measured: docs/cluster.md tells how.

A rate is of whole runs where there is one, in tokens a second of one device or core: `fast` is fp16
or bf16, `exact` fp32. A model between two that were measured lies between their rates, by its
matrix work of a token; one beyond them does the matrix work of the nearest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, get_args

from embedmill.pipeline.plan.plan import Planned
from embedmill.schemas.spec import Hardware, Run

BILLION = 1e9
MINILM, BASE, LARGE = 21_233_664, 169_869_312, 603_979_776  # matrix operations of a token


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of hardware at one precision."""

    name: Hardware
    said: str
    precision: str
    points: tuple[tuple[float, float], ...]  # (operations of a token, tokens a second), rising
    page: str  # under docs/benchmarks

    def tokens_per_s(self, flops: float) -> float:
        """The rate of a model with so many matrix operations a token."""
        low, high = self.points[0], self.points[-1]
        if not low[0] < flops < high[0]:
            near, rate = low if flops <= low[0] else high
            return rate * near / flops
        (a, slow), (b, fast) = next(p for p in pairwise(self.points) if flops <= p[1][0])
        share = math.log(flops / a) / math.log(b / a)
        return slow ** (1 - share) * fast**share


MEASURED = (
    # Whole runs, inline, from the first pack to the manifest.
    Measured(
        "h200", "one H200", "fast", ((MINILM, 11.87e6), (BASE, 2.42e6), (LARGE, 0.78e6)),
        "gpu_h200_202611.md",
    ),
    # Whole runs on two cores, half of it each; for BASE texts in, vectors out.
    *(
        Measured(name, said, precision, points, "engine_cpu_202611.md")
        for name, said, precision, points in (
            ("amx_core", "a core of a Xeon with AMX", "fast", ((MINILM, 31.8e3), (BASE, 4470.0))),
            ("amx_core", "a core of a Xeon with AMX", "exact", ((MINILM, 9150.0), (BASE, 1110.0))),
            ("zen4_core", "a core of Zen 4", "fast", ((MINILM, 7830.0),)),
            ("zen4_core", "a core of Zen 4", "exact", ((MINILM, 3930.0),)),
            ("zen4_core", "a core of Zen 4", "int8", ((MINILM, 12550.0),)),
        )
    ),
)  # fmt: skip
assert {kind.name for kind in MEASURED} == set(get_args(Hardware))


def billion_rows(planned: Planned, run: Run, tokens_per_row: float) -> list[dict[str, Any]]:
    """For each hardware: hours of one for a billion rows like those of the plan, and their cost.

    The precision is the plan's; where that is exact by the CPU's default alone, a GPU is fast.
    """
    flops, auto = planned.model.flops_per_token, planned.plan.settings.device == "cpu"
    found = []
    for kind in MEASURED:
        planned_as = planned.plan.settings.precision
        wanted = "fast" if kind.name == "h200" and auto else planned_as
        if kind.precision != wanted or not tokens_per_row:
            continue
        rate = kind.tokens_per_s(flops)
        hours = BILLION * tokens_per_row / rate / 3600
        price = run.prices.get(kind.name)
        found.append(
            {
                "hardware": kind.name,
                "precision": kind.precision,
                "tokens_per_s": float(f"{rate:.3g}"),
                "hours_per_billion_rows": round(hours, 2),
                "cost_per_billion_rows": None if price is None else round(hours * price, 2),
                "rate_from": f"docs/benchmarks/{kind.page}",
            }
        )
    return found


def billion_lines(rows: list[dict[str, Any]], tokens_per_row: float) -> list[str]:
    """The same for people."""
    lines = [f"rows of {tokens_per_row:,.0f} tokens, by measured rates:"] if rows else []
    said = {kind.name: kind.said for kind in MEASURED}
    for row in rows:
        hours = row["hours_per_billion_rows"]
        cost = row["cost_per_billion_rows"]
        price = "" if cost is None else f", costs {cost:,.2f}"
        rate = f"{row['tokens_per_s']:,.0f} tokens a second"
        lines.append(
            f"{said[row['hardware']]}, {row['precision']}: {hours:,.1f} hours at {rate}{price}"
        )
    return lines
