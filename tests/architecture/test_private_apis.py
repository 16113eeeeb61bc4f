"""Each private name that we stand on is there, and each that we use is on the page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "private-apis.md").read_text("utf-8")
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \|", re.MULTILINE)
ROWS = ROW.findall(PAGE)
# made by an instance, or looked up only when it is asked for
MADE = {"ray.data.Dataset._logical_plan", "multiprocessing.process.BaseProcess._inheriting",
        "transformers.PretrainedConfig._attn_implementation"}  # fmt: skip
USE = re.compile(
    r"\b(_internal_kv_\w+|_logical_plan|ray\._private|_do_request|_inheriting|_linear_pointwise"
    r"|_reorder_linear_weight|_flash_attention_forward)\b|(?<=\.)_attn_implementation\b"
)


def found(name: str) -> Any:
    """The object of a dotted name; AttributeError or ImportError if it is not there."""
    module, *rest = name.split(".")
    value = importlib.import_module(module)
    for n, part in enumerate(rest):
        if not hasattr(value, part):
            importlib.import_module(".".join([module, *rest[: n + 1]]))
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", sorted({name for name, _ in ROWS} - MADE))
def test_a_private_name_is_there(name: str) -> None:
    assert found(name) is not None


def test_what_instances_have_is_there() -> None:
    import multiprocessing

    import ray.data
    from transformers import BertConfig

    assert hasattr(ray.data.range(1), "_logical_plan")
    assert hasattr(ray.data.range(1)._logical_plan, "dag")
    assert hasattr(BertConfig(), "_attn_implementation")
    # set while a spawned process reads its parent's script, as multiprocessing.spawn does
    source = Path(multiprocessing.__file__).with_name("spawn.py").read_text("utf-8")
    assert "_inheriting = True" in source


def test_every_use_of_a_private_name_is_on_the_page_with_its_file() -> None:
    sources = [ROOT / "embedmill" / "__init__.py"]
    sources += [path for room in ("pipeline", "jobs") for path in (ROOT / room).rglob("*.py")]
    for path in sources:
        where = path.relative_to(ROOT).as_posix()
        for use in USE.findall(path.read_text("utf-8")):
            assert any(use in name and f"`{where}`" in used for name, used in ROWS), (where, use)
