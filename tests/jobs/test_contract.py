"""The commands, their options and the JSON fields are a contract: others build on them."""

from __future__ import annotations

import dataclasses

import click

from embedmill.jobs.cli import cli
from embedmill.schemas.report import RunReport

COMMANDS = {
    "check": {"--set", "--json"},
    "plan": {"--set", "--json"},
    "run": {"--set", "--json"},
    "submit": {"--set", "--address", "--no-wait", "--json"},
    "stop": {"--address", "--json"},
    "schedule": {"--set", "--cron", "--to", "--address", "--image", "--ray-cron-job"},
    "status": {"--files", "--follow", "--json"},
    "verify": {"--sample", "--json"},
    "report": {"--html", "--json"},
    "explain": {"--set", "--json"},
    "search": {"-k", "--prompt", "--column", "--where", "--sink", "--json"},
    "index": {"--set", "--json"},
    "gc": {"--keep", "--json"},
}
REPORT = set(
    """
    run_id fingerprint manifest rows_in rows_encoded rows_reused rows_deduplicated rows_rejected
    rows_cut tokens units units_resumed seconds encode_seconds tokenize_seconds write_seconds
    tokens_per_s rows_per_s encoder_busy peak_rss_bytes engine output exit_code
    """.split()
)


def test_commands_and_options() -> None:
    got = {
        name: {p.opts[0] for p in command.params if isinstance(p, click.Option)}
        for name, command in cli.commands.items()
    }

    assert got == COMMANDS


def test_fields_of_the_report() -> None:
    got = {field.name for field in dataclasses.fields(RunReport)}

    assert set() == REPORT - got
