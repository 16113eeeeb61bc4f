"""A job in a folder of its own: shards in `in/`, the output in `out/`, run through the corridor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from embedmill.pipeline.batches import TextBatch
from embedmill.pipeline.parts.commit import adopt, commit_snapshot
from embedmill.pipeline.plan.plan import Planned, freeze, make_plan
from embedmill.pipeline.read.unit import read_unit
from embedmill.pipeline.reuse.reuse import freeze_index
from embedmill.pipeline.run.inline import run_inline
from embedmill.pipeline.snapshot.gc import collect
from embedmill.pipeline.store.output import Store, open_store
from embedmill.schemas.manifest import Manifest
from embedmill.schemas.spec import Run, Spec


@dataclass(frozen=True)
class Job:
    """One input and one output."""

    folder: Path
    model: Path
    write: Callable[..., Path]
    out: str = "out"

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / self.out))

    def shard(self, name: str, row_group_size: int | None = None, **columns: Any) -> Path:
        """Writes in/NAME with page checksums."""
        return self.write(self.folder / "in" / name, row_group_size, **columns)

    def spec(self, input: Any = (), model: Any = (), output: Any = (), run: Any = ()) -> Spec:
        """A spec with small units, encoded inline on the CPU."""
        return Spec.model_validate(
            {
                "input": {"path": str(self.folder / "in"), "text": "text", **dict(input)},
                "model": {"name": str(self.model), **dict(model)},
                "output": {"path": str(self.folder / self.out), **dict(output)},
                "run": {"device": "cpu", "runner": "inline", "unit_rows": 10, **dict(run)},
            }
        )

    def plan(self, **sections: Any) -> Planned:
        """What a run would do now."""
        return make_plan(self.spec(**sections), self.store)

    def encode(self, planned: Planned, units: int | None = None) -> str:
        """Freezes the plan and commits its units, or the first so many; gives the plan's name."""
        name = freeze(self.store, planned)
        missing = [u for u in planned.units[:units] if not adopt(self.store, planned.plan, u)]
        for _ in run_inline(planned.plan, missing, "_embed/log/none/stop", Run(workers="auto")):
            pass
        return name

    def snapshot(self, planned: Planned, name: str, keep: int = 1) -> Manifest:
        """Commits the manifest of an encoded plan and collects what it does not name."""
        records = [adopt(self.store, planned.plan, unit) for unit in planned.units]
        manifest = commit_snapshot(self.store, planned, name, [r for r in records if r])
        collect(self.store, keep)
        return manifest

    def run(self, keep: int = 1, **sections: Any) -> Planned:
        """A whole run."""
        planned = freeze_index(self.store, self.plan(**sections))
        if not planned.unchanged:
            self.snapshot(planned, self.encode(planned), keep)
        return planned

    def read(self, **sections: Any) -> TextBatch:
        """The rows of the only unit."""
        planned = self.plan(**{"run": {"unit_rows": 1_000_000}, **sections})
        (unit,) = planned.units
        return read_unit(planned.plan, unit)


@pytest.fixture
def job(tmp_path: Path, tiny_bert: Path, write_texts: Callable[..., Path]) -> Job:
    """An empty input and an output that is not there yet."""
    (tmp_path / "in").mkdir()
    return Job(tmp_path, tiny_bert, write_texts)


def raw_strings(values: list[bytes | None], kind: pa.DataType | None = None) -> pa.Array:
    """A string array of bytes that need not be UTF-8, as broken writers make them."""
    kind = kind or pa.string()
    large = kind == pa.large_string()
    array = pa.array(values, pa.large_binary() if large else pa.binary())
    return pa.Array.from_buffers(kind, len(array), array.buffers(), array.null_count)
