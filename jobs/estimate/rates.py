"""How fast a run will be: by a rate that is given, that earlier runs measured, or assumed."""

from __future__ import annotations

from dataclasses import dataclass

from embedmill.jobs.watch.history import past_runs
from embedmill.pipeline.plan.plan import Planned
from embedmill.pipeline.store.output import Store
from embedmill.schemas.spec import Run

MOST, NEWEST = 10, 100  # runs that are asked what they measured, of so many
# Where nobody knows better: matrix operations a second of one core, or one GPU.
ASSUMED_FLOPS = {"cpu": 1e11, "cuda": 1.5e14}


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a whole job is."""

    tokens_per_s: float  # from the first pack to the end
    startup_seconds: float  # before the first pack
    source: str  # where this is from

    def seconds(self, tokens: int) -> float:
        """What so many tokens take; nothing takes no time."""
        return self.startup_seconds + tokens / self.tokens_per_s if tokens else 0.0


def rate_of(store: Store, planned: Planned, run: Run) -> Rate:
    """The rate of the spec's section `run`; else of the largest of the last runs like this one."""
    settings = planned.plan.settings
    like = [
        past.report
        for past in past_runs(store, NEWEST)
        if past.report
        and past.report.fingerprint == planned.plan.fingerprint
        and past.report.engine.get("device") == settings.device
        and past.report.tokens
    ][:MOST]
    largest = max(like, key=lambda report: report.tokens, default=None)
    startup = largest.startup_seconds if largest else 0.0
    if run.tokens_per_s is not None:
        return Rate(run.tokens_per_s, startup, "given in run.tokens_per_s")
    if largest:  # a run of ten rows says little about one of a million
        seconds = max(largest.seconds - startup, 1e-3)
        return Rate(largest.tokens / seconds, startup, f"measured by run {largest.run_id}")
    flops = ASSUMED_FLOPS[settings.device] * (settings.threads if settings.device == "cpu" else 1)
    rate = flops / (2 * planned.model.flops_per_token)
    return Rate(rate, startup, "assumed, no run has measured it yet")
