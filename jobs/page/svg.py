"""A figure of matplotlib as inline SVG for a strict page: no style, no script, colours by theme.

matplotlib writes colours and fonts into `style` attributes, which a strict Content-Security-Policy
forbids. Here they become plain attributes, and colours become names that the page's style sheet
gives, so that one drawing serves a light and a dark page. Only what is listed passes.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
COLOURS = tuple(f"#0{n}0a0a" for n in range(7))  # stand for the page's seven colours, c0 to c6
THEME = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
THEME |= {colour: f"c{n}" for n, colour in enumerate(COLOURS)}

TAGS = {"svg", "g", "path", "use", "defs", "clipPath", "rect", "text"}
PLAIN = {"viewBox", "d", "x", "y", "width", "height", "transform"}
STYLES = {
    "fill", "stroke", "stroke-width", "opacity", "fill-opacity", "stroke-opacity",
    "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "text-anchor", "font-size",
    "font-weight",
}  # fmt: skip
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # of metadata
LONG_NUMBER = re.compile(r"(\.\d\d)\d+")


def inline_svg(figure: Figure, name: str, label: str, hover: dict[str, list[str]]) -> str:
    """The figure as an `<svg>` of its own width; `label` is what it shows, for who cannot see it.

    `name` keeps its ids apart from those of other figures. `hover`: group id of an artist -> a
    text for each of its marks, in their order; a browser shows it when one points there.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=NOTHING)
    source = ET.fromstring(out.getvalue())
    (svg,) = _clean(source, name, hover)
    svg.attrib.pop("width")
    svg.attrib.pop("height")
    svg.attrib |= {"role": "img", "aria-label": label, "class": name}
    return ET.tostring(svg, encoding="unicode")


def _clean(source: ET.Element, name: str, hover: dict[str, list[str]]) -> list[ET.Element]:
    """The element as the page can hold it; its children alone if it says nothing itself."""
    tag = source.tag.removeprefix(SVG)
    if tag not in TAGS:
        return []
    element = ET.Element(tag, _attributes(source, name))
    if tag == "text":
        element.text = source.text
    for child in source:
        element.extend(_clean(child, name, hover))
    texts = hover.get(source.get("id", ""))
    if texts is not None:
        marks = element.findall(".//use") or element.findall(".//path")
        for mark, text in zip(marks, texts, strict=True):
            ET.SubElement(mark, "title").text = text
        _share(element)
    return [element] if tag != "g" or element.attrib else list(element)


def _share(group: ET.Element) -> None:
    """Marks of one look have it from their group: a map has a thousand of them."""
    marks = group.findall(".//use")
    if not marks:
        return
    shared = {k: v for k, v in marks[0].items() if k in STYLES}
    if all(shared == {k: v for k, v in mark.items() if k in STYLES} for mark in marks):
        group.attrib |= shared
        for mark in marks:
            for key in shared:
                del mark.attrib[key]


def _attributes(source: ET.Element, name: str) -> dict[str, str]:
    found = {}
    for key, value in source.items():
        if key in PLAIN:
            found[key] = LONG_NUMBER.sub(r"\1", " ".join(value.split()))
        elif key == "clip-path":
            found[key] = value.replace("url(#", f"url(#{name}-")
        elif key == f"{XLINK}href":
            found["href"] = value.replace("#", f"#{name}-")
        elif key == "id" and source.tag in (f"{SVG}path", f"{SVG}clipPath"):
            found[key] = f"{name}-{value}"
    if found.get("transform", "").startswith("rotate(-0 "):
        del found["transform"]
    for style in source.get("style", "").split(";"):
        key, _, value = (part.strip() for part in style.partition(":"))
        if key in STYLES:
            known = THEME.get(value)
            found[key] = f"var(--{known})" if known else value
    return found
