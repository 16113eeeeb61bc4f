"""The page in a real browser: it shows, in light and in dark, and nothing on it runs or fetches."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedmill.jobs.page.make import make_page
from embedmill.jobs.page.sample import shown
from tests.jobs.nasty import NASTY
from tests.patience import LONG

FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
    --disable-background-networking --disable-component-update --disable-sync
    --enable-logging=stderr --window-size=1120,1400 --virtual-time-budget=2000
    --disable-dev-shm-usage
""".split()
FLAGS.append("--host-resolver-rules=MAP * ~NOTFOUND")  # nothing leaves this machine
DARK, LIGHT = 0, 1  # as the browser numbers what a reader prefers


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page."""

    dom: str
    console: list[str]
    urls: list[str]  # that the page asked for, not the browser itself


@pytest.fixture(scope="module")
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no chromium here (apt-get install chromium); CI installs it")
    return found


def visit(browser: str, page: Path, *flags: str) -> Visit:
    """Opens a page from a file in a browser without a past."""
    profile, log = page.parent / "profile", page.parent / "net.json"
    command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--log-net-log={log}", *flags]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=LONG
    )
    shutil.rmtree(profile, ignore_errors=True)
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    urls = [request["url"] for request in asked if request["initiator"] != "not an origin"]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, said, urls)


@pytest.fixture(scope="module")
def page(nasty: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "night.html"
    file.write_text(make_page(nasty), encoding="utf-8")
    return file


def test_nothing_on_a_page_of_nasty_strings_runs_or_fetches(browser: str, page: Path) -> None:
    seen = visit(browser, page, "--dump-dom")

    assert "<title>The last run failed" in seen.dom
    assert seen.console == []
    assert seen.urls == []
    for text in NASTY:
        written = shown(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert written in seen.dom, text


def test_the_same_strings_run_and_fetch_where_nothing_guards(browser: str, tmp_path: Path) -> None:
    file = tmp_path / "open.html"
    file.write_text(f"<title>quiet</title>{''.join(NASTY[:6])}", encoding="utf-8")

    seen = visit(browser, file, "--dump-dom")

    assert "<title>RAN</title>" in seen.dom
    assert any("evil.test" in url for url in seen.urls)


def test_the_policy_alone_holds(browser: str, page: Path, tmp_path: Path) -> None:
    # Were every other lock open: the strings as markup, inside the page as it is.
    file = tmp_path / "open.html"
    html = page.read_text(encoding="utf-8")
    file.write_text(html.replace("<main>", f"<main>{''.join(NASTY[:6])}", 1), encoding="utf-8")

    seen = visit(browser, file, "--dump-dom")

    assert "<title>RAN</title>" not in seen.dom
    assert [url for url in seen.urls if "evil.test" in url] == []
    assert any("Content Security Policy" in line for line in seen.console)


def test_the_page_shows_in_light_and_in_dark(browser: str, page: Path) -> None:
    brightness, colours = {}, {}
    for theme in (LIGHT, DARK):
        picture = page.parent / f"{theme}.png"
        visit(
            browser,
            page,
            f"--screenshot={picture}",
            f"--blink-settings=preferredColorScheme={theme}",
        )
        image = Image.open(picture).convert("RGB")
        brightness[theme] = np.asarray(image).mean()
        colours[theme] = len(image.getcolors(1 << 24))

    assert brightness[LIGHT] > 200
    assert brightness[DARK] < 60
    assert min(colours.values()) > 50  # there is something on it
