"""A job to be disturbed: a refresh of a snapshot, in an output that can be put back as it was.

The refresh does everything that a run can do: it carries parts over, makes new ones, some with
rejects, replaces the manifest and collects what nobody names any more. What an undisturbed one
makes, to the last byte, is what a disturbed one must make.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from embedmill.pipeline.store.output import Store, open_store
from tests.faults.forked import Forked
from tests.faults.points import environment
from tests.faults.processes import write_spec

# What must not depend on what happened: all but logs, reports and the canary.
ANY = ("_embed/log/", "_embed/report/", "_embed/canary/")
UNIT_ROWS = 10


@dataclass(slots=True)
class Scene:
    """One job and what it makes when nobody disturbs it."""

    folder: Path
    spec: Path
    store: Store
    environment: dict[str, str]  # of every run
    before: dict[str, bytes] = field(default_factory=dict)  # the output as the refresh finds it
    after: dict[str, bytes] = field(default_factory=dict)  # and as it leaves it

    @property
    def bucket(self) -> bool:
        """Whether the output is in one."""
        return "://" in self.store.uri

    def run(self, name: str, *args: str, **more: str) -> Forked:
        """Starts the refresh; `name`: a folder for what it prints; `more`: of its environment."""
        arguments = ("run", str(self.spec), "--json", *args)
        return Forked(self.folder / name, *arguments, **{**self.environment, **more})

    def reset(self) -> None:
        """Puts the output back to before the refresh."""
        for name in list(self.store.list("")):
            self.store.delete(name)
        for name, data in self.before.items():
            assert self.store.create(name, data)

    def objects(self) -> dict[str, bytes]:
        """All of the output's objects that a run made; workers may go on and delete some."""
        found = {}
        for name in list(self.store.list("")):
            with suppress(FileNotFoundError):
                found[name] = self.store.read(name)
        return found

    def finish(self, folder: Path) -> None:
        """The same command again, undisturbed; units that it encodes are noted in the folder."""
        (folder / "encoded").touch()
        (folder / "encoded").rename(folder / "encoded-before")
        with self.run("successor", **environment("", 0, folder)) as successor:
            assert successor.wait() == 0, successor.err.read_text()
        assert "Traceback" not in successor.err.read_text()

    def check(self, standing: dict[str, bytes], folder: Path) -> None:
        """All is as if nothing had happened, and what stood when it happened was not done again.

        `standing`: the objects at that moment.
        """
        found = {name: data for name, data in self.objects().items() if not name.startswith(ANY)}
        wanted = {name: data for name, data in self.after.items() if not name.startswith(ANY)}
        assert wanted.keys() == found.keys()
        assert wanted == found
        for name, data in standing.items():
            if name.startswith(("data/", "_embed/manifest/0")):
                right = {**self.before, **self.after}.get(name)
                assert data == right, f"{name} could be seen, and was never right"
        # Parts alone: what a unit measured and rejected is there before its part is.
        parts = [n for n in standing if n.startswith("data/") and n not in self.before]
        done = {Path(name).name.partition("-")[0] for name in parts}
        noted = folder / "encoded"
        again = noted.read_text().split() if noted.exists() else []
        assert not done & set(again), "a unit whose part was there went through the encoder again"


def make_scene(
    folder: Path, model: str, write_texts: Callable[..., Path], output: str, **environment: str
) -> Scene:
    """Four shards: one stays, one is rewritten, one is deleted and one is new in the refresh."""
    shards = folder / "shards"

    def write(name: int, *, new: bool) -> None:
        words = "a new mountain" if new else "the old river"
        texts = [None if new and n % 7 == 3 else f"{words} {name} {n}" for n in range(30)]
        ids = [f"{name}-{n}" for n in range(30)]
        write_texts(shards / f"{name}.parquet", UNIT_ROWS, id=ids, text=texts)

    for name in range(3):
        write(name, new=False)
    spec = write_spec(folder / "spec.yaml", shards, model, output, unit_rows=UNIT_ROWS)
    scene = Scene(folder, spec, open_store(output), environment)
    scene.before = _made_by(scene, "first")
    (shards / "2.parquet").unlink()
    for name in (1, 3):
        write(name, new=True)
    scene.after = _made_by(scene, "second")
    new = [name for name in scene.after if name.startswith("data/") and name not in scene.before]
    assert len(new) == 6
    return scene


def _made_by(scene: Scene, name: str) -> dict[str, bytes]:
    with scene.run(name) as run:
        assert run.wait() == 0, run.err.read_text()
    return scene.objects()
