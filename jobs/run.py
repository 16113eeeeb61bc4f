"""`run`: plan, encode what is missing, commit, clean up, report. The same command resumes.

probe -> plan -> ranges -> freeze -> adopt finished units -> runner -> manifest -> gc -> report
"""

from __future__ import annotations

import json
import time

from embedmill.jobs.process.interrupt import Interrupts
from embedmill.jobs.process.progress import Progress
from embedmill.pipeline.load import load_tokenizer
from embedmill.pipeline.parts.commit import adopt_all, commit_snapshot, overtaken
from embedmill.pipeline.plan.plan import Planned, freeze, make_plan
from embedmill.pipeline.plan.shards import refuse_output_above
from embedmill.pipeline.reuse.reuse import freeze_index
from embedmill.pipeline.run.freeze_ranges import freeze_ranges
from embedmill.pipeline.run.log import RunLog
from embedmill.pipeline.run.receipt import Tally
from embedmill.pipeline.run.start import start
from embedmill.pipeline.run.summary import summarize
from embedmill.pipeline.snapshot.gates import judge
from embedmill.pipeline.snapshot.gc import collect
from embedmill.pipeline.snapshot.read import open_plans
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.errors import ConflictError
from embedmill.schemas.report import RunReport
from embedmill.schemas.spec import Spec


def run(spec: Spec) -> RunReport:
    """Brings the output up to date with the input; raises what went wrong, resumable."""
    began = time.time()
    store = open_store(spec.output.path)
    refuse_output_above(spec.input, store.uri)
    log = RunLog(store, store.probe(spec.output.single_writer))
    try:
        planned = make_plan(spec, store)
        with Interrupts(store, log.stop_name) as interrupts, overtaken(store, planned.plan):
            return _run(spec, store, planned, log, interrupts, began)
    except BaseException as error:
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 70)
        log.event("end", exit_code=code, error=type(error).__name__, what=str(error)[:1000])
        raise
    finally:
        store.delete(log.stop_name)


def _run(
    spec: Spec, store: Store, planned: Planned, log: RunLog, interrupts: Interrupts, began: float
) -> RunReport:
    tally = Tally(spec.output.quality.fault_rate, spec.model.long_text != "reject")
    # What an interrupted run left is removed once its generation is over: make that one then.
    if planned.unchanged and not any(open_plans(store, planned.plan.generation)):
        manifest = planned.base.manifest
        warnings = judge(spec.output.quality, planned.carried, [], store.uri)
        collect(store, spec.output.keep_snapshots)
        log.event("start", plan=manifest.plan, units=0, rows=0)
        return _finish(store, log, summarize(log, planned, manifest, [], tally, began, warnings))
    tokenizer = load_tokenizer(planned.plan)  # its faults are found before anything is written
    planned = freeze_index(store, freeze_ranges(store, planned))
    name = freeze(store, planned)
    finished, missing = adopt_all(store, planned.plan, planned.units)
    tally.judge(*finished)
    rows = sum(unit.rows for unit in missing)
    log.event("start", plan=name, units=len(missing), rows=rows, tokenizer=tokenizer.way)
    records = list(finished)
    with start(planned.plan, missing, log.stop_name, spec.run) as receipts:
        with Progress(rows) as progress:
            for receipt in receipts:
                records.append(receipt.record)
                tally.add(receipt)
                progress.add(receipt)
                log.event("progress", rows=tally.rows, tokens=tally.tokens)
        if len(records) < len(planned.units):
            interrupts.check()
        warnings = judge(spec.output.quality, planned.carried, records, store.uri, planned.before)
        try:
            manifest = commit_snapshot(store, planned, name, records)
        except ConflictError:
            collect(store, spec.output.keep_snapshots)  # another plan won: nobody names our parts
            raise
        collect(store, spec.output.keep_snapshots)
        summary = summarize(log, planned, manifest, finished, tally, began, warnings)
    return _finish(store, log, summary)


def _finish(store: Store, log: RunLog, report: RunReport) -> RunReport:
    """Stores the report beside the snapshot."""
    data = json.dumps(report.to_json(), indent=1).encode()
    store.create(f"_embed/report/{log.run_id}.json", data)
    log.event("end", exit_code=0)
    return report
