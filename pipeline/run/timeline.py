"""The running sums of a run at moments of it: few enough to keep, even enough to draw."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST = 120  # points: enough for a curve, a few kilobytes in the report of a week

# wall clock, then sums since the start: rows, tokens, seconds of preparing, encoding, writing
Point = tuple[float, int, int, float, float, float]


@dataclass(slots=True)
class Timeline:
    """Points at equal numbers of units; whenever there are too many, every second one goes."""

    points: list[Point] = field(default_factory=list)
    every: int = 1
    seen: int = 0

    def add(self, point: Point) -> None:
        """Notes the sums after a unit, or lets them pass."""
        if self.seen % self.every == 0:
            self.points.append(point)
        self.seen += 1
        if len(self.points) > MOST:
            self.points, self.every = self.points[::2], self.every * 2

    def since(self, began: float) -> list[list[float]]:
        """The points with seconds since `began` in place of the wall clock, rounded."""
        return [[round(at - began, 2), *(round(v, 2) for v in rest)] for at, *rest in self.points]
