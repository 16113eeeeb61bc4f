"""A run's report out of its plan, its manifest and what its receipts add up to."""

from __future__ import annotations

import importlib.metadata
import resource
import time

from embedmill.pipeline.plan.plan import Planned
from embedmill.pipeline.run.log import RunLog
from embedmill.pipeline.run.receipt import Tally
from embedmill.schemas.manifest import Manifest, PartRecord, manifest_name
from embedmill.schemas.report import RunReport


def summarize(
    log: RunLog,
    planned: Planned,
    manifest: Manifest,
    resumed: list[PartRecord],
    tally: Tally,
    began: float,
    warnings: list[str],
) -> RunReport:
    """The report of a run that began at `began` (wall clock) and ends now."""
    seconds, spans, settings = time.time() - began, tally.busy.spans, planned.plan.settings
    window = spans[-1][1] - spans[0][0] if spans else 0.0
    resumed = [*resumed, *tally.adopted]
    idle = {"device": settings.device, "precision": settings.precision, "attention": "", "path": ""}
    own_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return RunReport(
        run_id=log.run_id,
        commits=log.commits,
        fingerprint=planned.plan.fingerprint,
        manifest=manifest_name(manifest.generation),
        output=planned.plan.output,
        exit_code=0,
        rows_in=manifest.rows_in,
        rows_encoded=tally.encoded,
        rows_deduplicated=tally.deduplicated,
        rows_reused=sum(planned.carried.column("rows_out").to_pylist()) + tally.reused,
        rows_resumed=sum(record.rows_out for record in resumed),
        rows_rejected=sum(manifest.rejects.values()),
        rows_cut=manifest.rows_cut,
        rejects=manifest.rejects,
        tokens=tally.tokens,
        units=len(planned.units),
        units_resumed=len(resumed),
        parts=manifest.parts,
        vectors=manifest.vectors,
        quarantined=manifest.quarantined,
        warnings=warnings,
        seconds=round(seconds, 3),
        startup_seconds=round(spans[0][0] - began, 3) if spans else 0.0,
        encode_seconds=round(tally.encode_seconds, 3),
        tokenize_seconds=round(tally.prepare_seconds, 3),
        write_seconds=round(tally.write_seconds, 3),
        tokens_per_s=round(tally.tokens / tally.encode_seconds, 1) if spans else 0.0,
        rows_per_s=round(tally.rows / seconds, 1),
        encoder_busy=round(tally.encode_seconds / window, 4) if window else 0.0,
        peak_rss_bytes=max(own_rss, tally.peak_rss_bytes),
        clipped={n: round(tally.clipped[n] / max(of, 1), 6) for n, of in tally.quantized.items()},
        engine=tally.engine or idle,
        timeline=tally.timeline.since(began),
        version=_version(),
        left_out=dict(planned.listing.others.counts),
        left_out_named=[list(entry) for entry in planned.listing.others.named],
    )


def _version() -> str:
    try:
        return importlib.metadata.version("embedmill")
    except importlib.metadata.PackageNotFoundError:  # a checkout on a cluster is not installed
        return ""
