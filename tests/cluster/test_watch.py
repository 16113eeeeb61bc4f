"""A run exports metrics, scraped where Prometheus would; docs/grafana.json asks for these."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from embedmill.pipeline.run.metrics import COUNTERS, GAUGES
from tests.patience import LONG, SOON

from .conftest import ROOT, Head

DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
NAME = re.compile(r"\bray_[a-z_]+")


def asked() -> dict[str, set[str]]:
    """The metrics that the dashboard names, with the labels that its queries use."""
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    found: dict[str, set[str]] = {}
    for query in queries:
        labels = set(re.findall(r"(\w+)=~?\"", query))
        for group in re.findall(r"by \((.*?)\)", query):
            labels |= set(group.replace(" ", "").split(","))
        labels |= set(re.findall(r"label_values\(\w+, (\w+)\)", query))
        for name in NAME.findall(query):
            found.setdefault(name, set()).update(labels)
    return found


def scrape(url: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every sample of one scrape: name -> (labels, value)."""
    with urllib.request.urlopen(url, timeout=SOON) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in lines:
        if match := re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line):
            labels = dict(re.findall(r'(\w+)="(.*?)"', match[2]))
            found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


def test_the_dashboard_asks_for_all_that_we_export() -> None:
    ours = {f"ray_{name}_total" for name in COUNTERS} | {f"ray_{name}" for name in GAUGES}
    assert ours == {name for name in asked() if name.startswith("ray_embedmill")}
    for panel in DASHBOARD["panels"]:
        assert panel["title"] and panel["targets"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.ray
@pytest.mark.slow
def test_every_query_finds_its_metric(head: Head, job: Callable[..., tuple[Path, Path]]) -> None:
    """Names and labels of a real scrape, while a run of one reject in ten rows goes on."""
    spec, output = job(4000, rejects=True)
    code, run_id, err = head.run("submit", str(spec), "--address", head.url, "--no-wait")
    assert 0 == code, err
    seen: dict[str, list[tuple[dict[str, str], float]]] = {}
    wanted = asked()
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline and not wanted.keys() <= seen.keys():
        for name, samples in scrape(head.metrics).items():
            # Ray goes on telling what earlier runs counted; what is not of a run has no such label.
            ours = [s for s in samples if s[0].get("run", run_id.strip()) == run_id.strip()]
            seen |= {name: ours} if ours else {}
        time.sleep(1)

    assert [] == sorted(wanted.keys() - seen.keys())
    for name, labels in wanted.items():
        if name.startswith("ray_embedmill"):
            assert all("run" in sample for sample, _ in seen[name])
        assert labels <= seen[name][0][0].keys(), name
    rejects = {sample["code"]: value for sample, value in seen["ray_embedmill_rejects_total"]}
    assert rejects.keys() == {"NULL_TEXT"}
    rows = {sample["how"]: value for sample, value in seen["ray_embedmill_rows_total"]}
    assert rows["rejected"] == rejects["NULL_TEXT"] > 0
    head.run("stop", run_id.strip(), "--address", head.url)
