"""The page of a report: what it says, that it holds only text, and that it stays small."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedmill.jobs.page import sample as sampling
from embedmill.jobs.page.draw import _curves, along
from embedmill.jobs.page.facts import read_facts
from embedmill.jobs.page.make import HERE, make_page
from embedmill.jobs.page.sample import shown
from embedmill.jobs.run import run
from embedmill.pipeline.snapshot.read import read_plan, required, table
from embedmill.pipeline.store.output import LocalStore
from embedmill.schemas.errors import ConflictError
from embedmill.schemas.manifest import PART_TABLE
from embedmill.schemas.spec import Spec
from tests.jobs.conftest import Output, flip_a_bit_of, texts
from tests.jobs.nasty import NASTY

TAGS = set(
    """
    html head meta title style body header main section footer h1 h2 h3 p strong b small code span
    dl dt dd div ul li table caption thead tbody tr th td figure figcaption
    svg g path use defs clippath rect text
    """.split()
)
ATTRIBUTES = set(
    """
    lang charset http-equiv content name class role scope colspan aria-label aria-hidden viewbox d x
    y width height transform fill stroke stroke-width opacity fill-opacity stroke-opacity
    stroke-dasharray stroke-linecap stroke-linejoin text-anchor font-size font-weight clip-path
    href id
    """.split()
)


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def test_a_page_of_nasty_strings_has_only_text(nasty: str) -> None:
    html = make_page(nasty)
    page = Page(html)

    assert set(page.tags) <= TAGS
    assert {name for _, name, _ in page.attributes} <= ATTRIBUTES
    assert all(value.startswith("#") for value in page.values("href"))
    assert page.tags["style"] == 1
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 0
    used = {value[1:] for value in page.values("href")}
    used |= set(re.findall(r"url\(#(.+?)\)", html))
    assert used <= set(ids)
    for text in NASTY:
        assert shown(text) in page.text, text
    assert re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html) is None


def test_the_policy_allows_the_style_sheet_by_its_hash_and_nothing_else(nasty: str) -> None:
    html = make_page(nasty)

    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', html)
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    # Before anything that a corpus may say, since a policy does not look back.
    assert html.index("Content-Security-Policy") < html.index("<title>")
    assert "http" not in style
    assert "url(" not in style


def test_every_colour_is_the_theme_s(nasty: str) -> None:
    page = Page(make_page(nasty))
    known = set(re.findall(r"--([\w-]+):", (HERE / "page.css").read_text()))

    for value in [*page.values("fill"), *page.values("stroke")]:
        named = re.fullmatch(r"var\(--(\w+)\)", value)
        assert value == "none" or (named and named[1] in known), value


def test_a_mark_on_the_map_says_its_row_and_the_neighbours_are_near(made: Output) -> None:
    html = make_page(made.path)

    parts = table(made.store, required(made.store).manifest)
    rows = pq.read_table(made.store.root / parts.column("path")[0].as_py())
    first, title = rows.column("id")[0].as_py(), rows.column("title")[0].as_py()
    (drawn,) = re.findall(r'<svg[^>]*class="map">.*?</svg>', html, re.DOTALL)
    assert drawn.count("<use") == required(made.store).manifest.rows_out
    assert f"<title>{first} · {title}</title>" in drawn
    cosines = [float(found) for found in re.findall(r"<li>(-?[01]\.\d{3}) doc-", html)]
    assert len(cosines) > 0
    assert all(-1.001 <= cosine <= 1.001 for cosine in cosines)


def test_the_page_counts_lengths_cuts_and_rejects(made: Output) -> None:
    facts = read_facts(made.path)
    manifest = required(made.store).manifest

    assert facts.sample is not None
    assert (facts.sample.seen, facts.sample.cut) == (manifest.rows_out, manifest.rows_cut)
    assert int(facts.sample.tokens.sum()) == manifest.rows_out
    assert {one.code: one.rows for one in facts.rejected} == manifest.rejects
    assert facts.rejected[0].examples[0].startswith("doc-")


def test_a_text_that_the_spec_does_not_carry_is_nowhere_on_the_page(made: Output) -> None:
    html = make_page(made.path)

    assert "title 3" in html  # what it keeps is
    for text in filter(None, texts(80)):
        assert len(text) < 12 or text not in html


def test_a_big_snapshot_is_sampled_not_read(made: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PLACES", 2)
    monkeypatch.setattr(sampling, "ROW_GROUP", 16)
    opened: list[str] = []
    open_part = LocalStore.open
    monkeypatch.setattr(LocalStore, "open", lambda s, n: opened.append(n) or open_part(s, n))
    manifest = required(made.store).manifest
    parts = table(made.store, manifest)
    plan, _ = read_plan(made.store, manifest.plan)

    sample = sampling.draw_sample(made.store, plan, parts)

    assert len(opened) == 2 < len(parts)
    assert 0 < sample.seen < sample.rows == manifest.rows_out
    assert len(sample.labels) == len(sample.vectors_ND) <= sample.seen
    firsts = [int(label.split(" ")[0].removeprefix("doc-")) for label in sample.labels]
    assert firsts[0] < 80 <= firsts[-1]  # from the first shard and from the second


def test_kept_rows_are_spread_and_bounded(made: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_ROWS", 10)
    manifest = required(made.store).manifest
    plan, _ = read_plan(made.store, manifest.plan)

    sample = sampling.draw_sample(made.store, plan, table(made.store, manifest))

    assert sample.seen == manifest.rows_out
    assert 5 <= len(sample.vectors_ND) <= 10
    numbers = [int(label.split(" ")[0].removeprefix("doc-")) for label in sample.labels]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 120


@pytest.mark.parametrize(
    "column",
    [
        {"dtype": "binary"},
        {"dtype": "int8"},
        {"pooling": "tokens"},
        {"normalize": False, "dtype": "float16"},
    ],
    ids=lambda column: "-".join(map(str, column.values())),
)
def test_every_kind_of_column_has_a_page(
    column: dict, tiny_bert: Path, tmp_path: Path, write_texts: Callable[..., Path]
) -> None:
    write_texts(tmp_path / "in.parquet", text=["a lemon", "a boat", "the sun", "rain", "a city"])
    base = {"input": {"path": str(tmp_path / "in.parquet"), "text": "text"}}
    base["model"] = {"name": str(tiny_bert)}
    base["output"] = {"path": str(tmp_path / "out"), "columns": [column]}
    base["run"] = {"runner": "inline", "device": "cpu"}
    run(Spec.model_validate(base))

    html = make_page(str(tmp_path / "out"))

    assert "All went well" in html
    assert ('class="map"' in html) == (column.get("pooling") != "tokens")


def test_a_damaged_part_is_on_the_page_not_instead_of_it(copy: Output) -> None:
    parts = table(copy.store, required(copy.store).manifest)
    flip_a_bit_of(copy.store, parts.column("path")[0].as_py(), "vector")

    html = make_page(copy.path)

    assert "PART_CORRUPT" in html
    assert "All went well" not in html


def test_a_folder_that_is_no_output_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="NO_OUTPUT"):
        make_page(str(tmp_path))


def test_the_colours_can_be_told_from_the_paper_in_light_and_dark() -> None:
    light, dark = (HERE / "page.css").read_text().split("prefers-color-scheme: dark")
    for theme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
        assert _contrast(colours["ink"], colours["paper"]) >= 7
        for word in ("muted", "good", "look", "bad"):
            assert _contrast(colours[word], colours["paper"]) >= 4.5
            assert _contrast(colours[word], colours.get(f"{word}-paper", colours["card"])) >= 4.5
        for n in range(7):
            assert _contrast(colours[f"c{n}"], colours["paper"]) >= 3


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_curves_are_of_what_was_encoded_and_have_gaps_where_all_was_reused() -> None:
    names = [field.name for field in PART_TABLE]
    sums = {name: np.zeros(3) for name in names} | {
        "sequences": np.array([2.0, 0.0, 1.0]), "tokens_encoded": np.array([20.0, 0.0, 8.0]),
        "tokens": np.array([20.0, 900.0, 500.0]), "tokens_unknown": np.array([0.0, 0.0, 4.0]),
        "rows_in": np.full(3, 50.0), "rows_out": np.full(3, 50.0),
    }  # fmt: skip
    curves = {curve.title: curve.values for curve in _curves(sums)}
    np.testing.assert_equal(curves["tokens a sequence"], [10.0, np.nan, 8.0])
    np.testing.assert_equal(curves["unknown tokens"], [0.0, np.nan, 50.0])
    assert "rows 101 to 150" in along(sums) and "rows 51 to 100" not in along(sums)
