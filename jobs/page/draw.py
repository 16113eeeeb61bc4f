"""The page's figures. matplotlib is imported here and in svg.py only.

Nothing that a corpus says is drawn as text: ids and kept columns only ever stand in `hover`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from embedmill.jobs.page.scatter import Scatter
from embedmill.jobs.page.svg import COLOURS, GRID, INK, MUTED, PAPER, inline_svg
from embedmill.jobs.watch.history import PastRun
from embedmill.schemas.report import FATES, RunReport

WIDE, HALF = 10.2, 5.0  # inches; 72 units of a drawing each
SHAPES = "os^Dvp"  # of groups, so that colour is not all that tells them apart
BARS, MOST_STEPS = 48, 40
TIMES = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
LOOK = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, found and copied
    "svg.hashsalt": "embedmill",  # equal figures give equal bytes
    "text.parse_math": False,
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": GRID, "axes.titlecolor": MUTED,
    "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "ytick.major.size": 0, "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
}  # fmt: skip
looking = style.context(["default", LOOK])  # whatever a user's matplotlibrc says

# (word, colour) of each of schemas.report.FATES, and of each stage: the same wherever drawn
ROWS = (("encoded", 0), ("equal to another", 5), ("reused", 2), ("resumed", 3), ("rejected", 4))
STAGES = (("reading and tokenizing", 2), ("encoding", 0), ("writing and committing", 3))


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a whole."""

    word: str
    amount: float
    said: str  # the amount in words
    colour: int


def short(value: float) -> str:
    """1,234,567 as 1.2M: for axes."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """Hundredths, with their sign."""
    return f"{value:.3g} %"


@looking
def stack(name: str, label: str, parts: Sequence[Part]) -> str:
    """One bar of parts that add up; parts of 0 are left out."""
    figure = Figure(figsize=(WIDE, 0.42))
    axes = figure.subplots()
    axes.axis("off")
    total, left, hover = sum(part.amount for part in parts) or 1, 0.0, {}
    for number, part in enumerate(parts):
        if part.amount > 0:
            share = max(part.amount / total, 0.003)  # a few rejects of a million are still seen
            (bar,) = axes.barh(0, share, 1, left, color=COLOURS[part.colour], edgecolor=PAPER)
            bar.set_gid(f"part-{number}")
            hover[f"part-{number}"] = [f"{part.word}: {part.said}"]
            left += share
    axes.set_xlim(0, left or 1)
    axes.margins(y=0)
    return inline_svg(figure, name, label, hover)


@looking
def throughput(report: RunReport) -> str:
    """Tokens a second over the run, and how fast each stage would have been alone."""
    points = _apart(report)
    step = np.diff(points, axis=0)
    size, unit = next((s, u) for s, u in TIMES if report.seconds >= 2 * s or s == 1)
    at = (points[1:, 0] - step[:, 0] / 2) / size
    figure = Figure(figsize=(WIDE, 3.2))
    axes, hover = figure.subplots(), {}
    lines = [("the whole run", step[:, 0], INK, 2.4)]
    lines += [(word, step[:, 3 + n], COLOURS[c], 1.4) for n, (word, c) in enumerate(STAGES)]
    for number, (word, seconds, colour, width) in enumerate(lines):
        there = (seconds > 0) & (step[:, 2] > 0)
        rate = step[there, 2] / seconds[there]
        axes.plot(at[there], rate, color=colour, linewidth=width)
        axes.scatter(at[there], rate, s=9, color=colour, linewidths=0, gid=f"rate-{number}")
        hover[f"rate-{number}"] = [f"{word}: {value:,.0f} tokens a second" for value in rate]
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_xlim(0, report.seconds / size)
    axes.set_xlabel(f"{unit} since the command")
    axes.set_ylabel("tokens a second")
    return inline_svg(figure, "throughput", "Tokens a second over the run, by stage", hover)


def _apart(report: RunReport) -> np.ndarray:
    """Moments of the run with some time between them: units that end together are one step."""
    apart = (report.seconds - report.startup_seconds) / MOST_STEPS
    points = [[report.startup_seconds, 0, 0, 0, 0, 0]]
    for point in report.timeline[:-1]:
        if min(point[0] - points[-1][0], report.timeline[-1][0] - point[0]) >= apart:
            points.append(point)
    return np.array([*points, *report.timeline[-1:]], float)


@looking
def lengths(tokens: np.ndarray, limit: int) -> str:
    """Rows by their number of tokens; tokens[t] rows have t."""
    longest = max(int(np.flatnonzero(tokens).max(initial=1)), 1)
    width = -(-longest // BARS)
    sums = np.add.reduceat(tokens, np.arange(0, len(tokens), width))[: longest // width + 1]
    share = sums / max(sums.sum(), 1)
    figure = Figure(figsize=(HALF, 2.7))
    axes = figure.subplots()
    starts = np.arange(len(sums)) * width
    bars = axes.bar(starts, share, width=width * 0.9, align="edge", color=COLOURS[0])
    hover = {}
    for number, (bar, rows) in enumerate(zip(bars, sums, strict=True)):
        bar.set_gid(f"bar-{number}")
        first, last = number * width, (number + 1) * width - 1
        said = f"{first:,} to {last:,} tokens" if width > 1 else f"{first:,} tokens"
        hover[f"bar-{number}"] = [f"{said}: {rows:,} rows, {share[number]:.1%}"]
    if longest >= 0.8 * limit:
        axes.axvline(limit, color=COLOURS[4], linewidth=1.2, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: percent(100 * v)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("tokens of a row, special tokens included")
    axes.set_ylabel("share of rows")
    return inline_svg(figure, "lengths", "Rows by their number of tokens", hover)


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure along the corpus: one value a stretch of it."""

    title: str
    values: np.ndarray
    say: Callable[[float], str]
    spread: np.ndarray | float = 0.0  # drawn as a band around the values


@looking
def along(stretches: dict[str, np.ndarray]) -> str:
    """Small curves along the corpus, in the order of its input: where it changes; "" if nowhere."""
    if not (curves := _curves(stretches)):
        return ""
    edges = np.concatenate([[0], np.cumsum(stretches["rows_in"])])
    figure = Figure(figsize=(HALF, 0.72 * len(curves) + 0.35))
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    hover = {}
    for number, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
        low, high = curve.values - curve.spread, curve.values + curve.spread
        axes.stairs(high, edges, baseline=low, fill=True, color=COLOURS[0], alpha=0.2)
        axes.stairs(curve.values, edges, color=COLOURS[0], linewidth=1.3, baseline=None)
        here = np.flatnonzero(np.isfinite(curve.values))
        middle, gid = (edges[:-1] + edges[1:])[here] / 2, f"at-{number}"
        axes.scatter(middle, curve.values[here], s=6, color=COLOURS[0], linewidths=0, gid=gid)
        hover[gid] = [
            f"{curve.title}: {curve.say(value)}, rows {first + 1:,.0f} to {last:,.0f}"
            for value, first, last in zip(
                curve.values[here], edges[here], edges[here + 1], strict=True
            )
        ]
        axes.set_title(curve.title)
        axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _, say=curve.say: say(v)))
        axes.set_ylim(-0.08 * np.nanmax(high), 1.25 * np.nanmax(high))
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    panels[-1].set_xlabel("rows of the input")
    return inline_svg(figure, "along", "The corpus from its first row to its last", hover)


def _curves(s: dict[str, np.ndarray]) -> list[Curve]:
    """The curves that say something; one that is 0 all along does not.

    Those of sequences have gaps where all vectors were reused, and nothing was measured.
    """
    sequences = np.where(s["sequences"] > 0, s["sequences"], np.nan)
    tokens = np.where(s["sequences"] > 0, np.maximum(s["tokens_encoded"], 1), np.nan)
    rows_in, rows_out = np.maximum(s["rows_in"], 1), np.maximum(s["rows_out"], 1)
    norm = s["norm_sum"] / sequences
    spread = np.sqrt(np.maximum(s["norm_squares"] / sequences - norm**2, 0))
    cut, unknown = 100 * s["rows_cut"] / rows_out, 100 * s["tokens_unknown"] / tokens
    curves = [
        Curve("tokens a sequence", s["tokens_encoded"] / sequences, short),
        Curve("norm before normalization, and its deviation", norm, short, spread),
        Curve("rows that lost text", cut, percent),
        Curve("unknown tokens", unknown, percent),
        Curve("rejected rows", 100 * (s["rows_in"] - s["rows_out"]) / rows_in, percent),
    ]
    return [curve for curve in curves if np.nan_to_num(curve.values).any()]


@looking
def plane(scatter: Scatter, labels: list[str]) -> str:
    """The map of a sample: each point says which row it is."""
    figure = Figure(figsize=(WIDE, 5.8))
    axes = figure.subplots()
    axes.axis("off")
    axes.set_aspect("equal", adjustable="datalim")
    hover = {}
    for group in range(len(scatter.middle_G)):
        here = np.flatnonzero(scatter.group_M == group)
        axes.scatter(
            *scatter.point_M2[here].T, s=26, marker=SHAPES[group], color=COLOURS[group],
            alpha=0.75, linewidths=0, gid=f"group-{group}",
        )  # fmt: skip
        hover[f"group-{group}"] = [labels[row] for row in scatter.row_M[here]]
    return inline_svg(figure, "map", "A sample of the vectors on a plane", hover)


@looking
def history(runs: list[PastRun]) -> str:
    """What each run did, oldest first; a cross where one failed or has no end."""
    figure = Figure(figsize=(WIDE, 2.3))
    axes = figure.subplots()
    runs = runs[::-1]
    bottom, hover = np.zeros(len(runs)), {}
    for number, ((word, colour), name) in enumerate(zip(ROWS, FATES, strict=True)):
        rows = np.array([getattr(r.report, name) if r.report else 0 for r in runs], float)
        bars = axes.bar(range(len(runs)), rows, 0.72, bottom, color=COLOURS[colour])
        for place, bar in enumerate(bars):
            bar.set_gid(f"run-{number}-{place}")
            said = f"{runs[place].began:%Y-%m-%d %H:%M}: {rows[place]:,.0f} {word}"
            hover[f"run-{number}-{place}"] = [said]
        bottom += rows
    bad = [place for place, run in enumerate(runs) if run.exit_code != 0]
    axes.scatter(bad, np.zeros(len(bad)), marker="X", s=60, color=COLOURS[4], gid="bad", zorder=4)
    hover["bad"] = [
        f"{runs[p].began:%Y-%m-%d %H:%M}: "
        + ("no end" if runs[p].exit_code is None else f"exit {runs[p].exit_code}")
        for p in bad
    ]
    _dates(axes, runs)
    axes.set_xlim(-0.6, max(len(runs), 12) - 0.4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylabel("rows")
    return inline_svg(figure, "history", "Rows of each run, oldest first", hover)


def _dates(axes: Axes, runs: list[PastRun]) -> None:
    every = max(2, -(-len(runs) // 8))
    places = range(len(runs) - 1, -1, -every)
    axes.set_xticks(list(places), [f"{runs[p].began:%d %b %H:%M}" for p in places])
    axes.tick_params(axis="x", length=0)
