"""The commands: each parses, calls one function and prints. Data to stdout, words to stderr.

Heavy libraries are imported inside the commands that need them, so that `--help` and `check`
answer at once.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import click

from embedmill.jobs.process.ending import fail, listened, storage_error
from embedmill.schemas.errors import EmbedmillError, Interrupted
from embedmill.schemas.terminal import visible

SETS = click.option(
    "--set", "sets", multiple=True, metavar="A.B=C", help="Override a field of the spec."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SPEC = click.argument("spec", metavar="SPEC")
OUT = click.argument("output", metavar="OUT")
ADDRESS = click.option(
    "--address", required=True, metavar="URL", help="The cluster's dashboard: http://HEAD:8265."
)
IMAGE = "embedmill:latest"
CONTROLS = {n: f"\\u{n:04x}" for n in range(0x7F, 0xA0)}  # JSON leaves these as they are


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="embedmill")
def cli() -> None:
    """Vectors for every text of a corpus: one spec in, Parquet vector columns out, exactly once."""


@cli.command()
@SPEC
@SETS
@JSON
def check(spec: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Print the resolved spec, or its problems."""
    from embedmill.schemas.spec_file.load import dump_spec, load_spec

    resolved = load_spec(spec, sets)
    _print(resolved.model_dump(), dump_spec(resolved).rstrip(), as_json)


@cli.command()
@SPEC
@SETS
@JSON
def plan(spec: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Say what a run would do, writing nothing."""
    from embedmill.jobs.estimate.plan import plan as make
    from embedmill.jobs.estimate.plan import plan_text
    from embedmill.schemas.spec_file.load import load_spec

    facts = make(load_spec(spec, sets))
    _print(facts, plan_text(facts), as_json)


@cli.command()
@SPEC
@SETS
@JSON
def run(spec: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Encode; resume; refresh: always this command."""
    from embedmill.jobs.run import run as start
    from embedmill.jobs.watch.report import report_text
    from embedmill.schemas.spec_file.load import load_spec

    resolved = load_spec(spec, sets)
    facts = start(resolved).to_json()
    _print(facts, report_text(facts), as_json)
    if resolved.index:
        click.echo(f"embedmill: the sinks follow with: embedmill index {spec}", err=True)


@cli.command()
@SPEC
@SETS
@ADDRESS
@click.option("--no-wait", is_flag=True, help="Return once the cluster has the job.")
@JSON
def submit(spec: str, sets: tuple[str, ...], address: str, no_wait: bool, as_json: bool) -> None:
    """Run on a cluster: follow the job, print its report, end with its exit code."""
    from embedmill.jobs.watch.report import report_text
    from embedmill.schemas.spec_file.load import load_spec

    resolved = load_spec(spec, sets)
    from embedmill.jobs.cluster.submit import submit as send

    facts, code = send(resolved, address, wait=not no_wait)
    if not code:
        _print(facts, facts["run_id"] if no_wait else report_text(facts), as_json)
    elif as_json:  # its words have come to stderr already
        click.echo(json.dumps(facts))
    sys.exit(code)


@cli.command()
@click.argument("run", metavar="RUN")
@ADDRESS
@JSON
def stop(run: str, address: str, as_json: bool) -> None:
    """End a submitted run: it finishes the units in flight, and can be resumed."""
    from embedmill.jobs.cluster.submit import stop as end

    facts = end(run, address)
    _print(facts, f"run {run} is {facts['status']}; the same submit resumes it", as_json)


@cli.command()
@SPEC
@SETS
@click.option("--cron", required=True, metavar="CRON", help="When: five fields, or @daily.")
@click.option("--to", required=True, type=click.Choice(["crontab", "kuberay", "airflow"]))
@click.option("--address", metavar="URL", help="Submit there; a crontab without it runs here.")
@click.option("--image", default=IMAGE, show_default=True, help="What pods run; see Dockerfile.")
@click.option("--ray-cron-job", is_flag=True, help="KubeRay's alpha RayCronJob, not a CronJob.")
def schedule(spec: str, sets: tuple[str, ...], **when: Any) -> None:
    """Print the file that a scheduler wants; nothing is installed."""
    from embedmill.jobs.cluster.schedule import schedule as make
    from embedmill.schemas.spec_file.load import load_spec

    click.echo(make(load_spec(spec, sets), spec, sets=sets, **when))


@cli.command()
@OUT
@click.option("--files", is_flag=True, help="Print the parts of the snapshot, one URI a line.")
@click.option("--follow", is_flag=True, help="Wait for a run, and print its events to the end.")
@JSON
def status(output: str, files: bool, follow: bool, as_json: bool) -> None:
    """Say what is committed and what is running, from storage alone."""
    if follow:
        from embedmill.jobs.watch.follow import Teller
        from embedmill.jobs.watch.follow import follow as events

        teller = Teller()
        for event in events(output):
            _print(event, teller.line(event), as_json)
        return
    from embedmill.jobs.watch.status import status as read
    from embedmill.jobs.watch.status import status_text

    facts = read(output, files=files)
    _print(facts, status_text(facts), as_json)


@cli.command()
@OUT
@click.option("--sample", default=0, metavar="N", help="Encode N rows again by the reference.")
@JSON
def verify(output: str, sample: int, as_json: bool) -> None:
    """Check everything committed: digests, tiling, counts, finiteness. Exit 4 if not ok."""
    from embedmill.jobs.verify.output import verify as examine
    from embedmill.jobs.verify.output import verify_text

    facts = examine(output, sample=sample)
    _print(facts, verify_text(facts), as_json)
    if not facts["ok"]:
        sys.exit(4)


@cli.command()
@OUT
@click.option("--html", metavar="FILE", help="Also write one page that a browser opens.")
@JSON
def report(output: str, html: str | None, as_json: bool) -> None:
    """Print the report of the last run that came to its end."""
    from embedmill.jobs.page.write import write_html
    from embedmill.jobs.watch.report import report as read
    from embedmill.jobs.watch.report import report_text

    if html is not None:
        write_html(output, html)
        click.echo(f"embedmill: wrote {html}", err=True)
    facts = read(output)
    _print(facts, report_text(facts), as_json)


@cli.command()
@SPEC
@click.argument("text")
@click.argument("text_b", required=False)
@SETS
@JSON
def explain(spec: str, text: str, text_b: str | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Show the model's input for a text: tokens, ids, segments, positions, norms."""
    from embedmill.jobs.explain import explain as show
    from embedmill.jobs.explain import explain_text
    from embedmill.schemas.spec_file.load import load_spec

    facts = show(load_spec(spec, sets), text, text_b)
    _print(facts, explain_text(facts), as_json)


@cli.command()
@OUT
@click.argument("query")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many hits.")
@click.option("--prompt", metavar="P", help="A prompt's name in the model's config, or a literal.")
@click.option("--column", metavar="NAME", help="The vector column; default the first.")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Only such rows; also !=, <, <=, >, >=."
)
@click.option("--sink", metavar="NAME", help="Ask this sink of the last index, not the parts.")
@JSON
def search(output: str, query: str, as_json: bool, **how: Any) -> None:
    """Find the nearest rows, exactly, straight from the parts; or in a sink."""
    from embedmill.jobs.search.exact import search as find
    from embedmill.jobs.search.exact import search_text

    facts = find(output, query, **how)
    _print({"hits": facts["hits"]}, search_text(facts), as_json)


@cli.command()
@SPEC
@SETS
@JSON
def index(spec: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Load the snapshot into the spec's sinks, or what changed of it; check them."""
    from embedmill.jobs.index import index as load
    from embedmill.jobs.watch.index_report import index_text
    from embedmill.schemas.spec_file.load import load_spec

    facts = load(load_spec(spec, sets))
    _print(facts, index_text(facts), as_json)


@cli.command()
@OUT
@click.option(
    "--keep",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Snapshots whose parts stay.",
)
@JSON
def gc(output: str, keep: int, as_json: bool) -> None:
    """Remove what no kept manifest names."""
    from embedmill.pipeline.snapshot.gc import collect
    from embedmill.pipeline.store.output import open_store

    removed = collect(open_store(output), keep)
    _print({"removed": removed}, f"{len(removed)} objects removed", as_json)


def main() -> None:
    """The entry point: one line and an exit code for whatever goes wrong."""
    with listened():
        _main("--json" in sys.argv)


def _main(as_json: bool) -> None:
    try:
        cli(standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        fail(Interrupted("INTERRUPTED", "", "stopped", "the same command resumes"), as_json)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except EmbedmillError as error:
        fail(error, as_json)
    except OSError as error:
        fail(storage_error(error), as_json)
    except SystemExit as end:
        if end.code != 1:
            raise
        fail(storage_error(BrokenPipeError("a pipe broke")), as_json)  # what click makes of it
    except KeyboardInterrupt:
        fail(Interrupted("INTERRUPTED", "", "stopped", "the same command resumes"), as_json)
    except BaseException as error:  # a bug of ours: whoever mends it needs the traceback
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        fail(EmbedmillError("BUG", "", what, "please report it with the lines above"), as_json)


def _print(facts: dict[str, Any], text: str, as_json: bool) -> None:
    said = json.dumps(facts, ensure_ascii=False) if as_json else visible(text, keep="\n\t")
    click.echo(said.translate(CONTROLS))
