"""A folder of loads on a local disk, of which searchers see the one that `current` points to.

PATH/current -> load-000002      replaced at one instant
PATH/load-000002/load.json       what it is (Loaded), beside the sink's own files
PATH/.embedmill                  the mark that the folder is ours, locked while somebody loads
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import IO

from embedmill.pipeline.index.sink import Loaded
from embedmill.schemas.errors import ConflictError, StorageError, TryAgain

MARK, CURRENT, FACTS = ".embedmill", "current", "load.json"
WAIT_SECONDS = 60.0  # for somebody else who loads: a process that was killed holds no lock


class Versions:
    """The folder; a writer locks it with the first load that it begins."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._lock: IO[str] | None = None

    def current(self) -> Path | None:
        """The load that searchers see now; ConflictError if the folder is somebody else's."""
        root = self.root
        if root.exists() and not (root / MARK).exists() and (root.is_file() or any(root.iterdir())):
            what, do = "is there and is no sink of ours", "choose another path"
            raise ConflictError("SINK_TAKEN", str(root), what, do)
        where = (root / CURRENT).resolve()
        return where if where.is_dir() else None

    def loaded(self) -> Loaded | None:
        """What the current load is."""
        if (where := self.current()) is None:
            return None
        try:
            return Loaded.from_json(json.loads((where / FACTS).read_text()))
        except (OSError, ValueError):
            return None

    def lock(self) -> None:
        """Waits until nobody else loads here; TryAgain if that takes long."""
        if self._lock is not None:
            return
        self.current()
        self.root.mkdir(parents=True, exist_ok=True)
        file = (self.root / MARK).open("a")
        ends = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    file.close()
                    what = "somebody else is loading it"
                    raise TryAgain("SINK_BUSY", str(self.root), what, "try again later") from None
                time.sleep(0.1)
        self._lock = file

    def beside(self, keep: str | None = None) -> Path:
        """A folder for a new load; what other loads left that nobody sees is removed, but `keep`.

        With `keep`, the name of a load, the folder is that of this load, resumed if it was begun.
        """
        self.lock()
        current = self.current()
        numbers = [0]
        for path in self.root.glob("load-*"):
            numbers.append(int(path.name.split("-")[1]))
            if path != current and not (keep and path.name.endswith(keep)):
                shutil.rmtree(path)
            elif path != current:
                return path
        path = self.root / f"load-{max(numbers) + 1:06d}{keep or ''}"
        path.mkdir()
        return path

    def describe(self, path: Path, loaded: Loaded) -> None:
        """Says in a load what it is, at one instant."""
        scratch = path / f"{FACTS}.new"
        with scratch.open("w") as file:
            json.dump(loaded.to_json(), file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path / FACTS)

    def publish(self, path: Path) -> None:
        """Searchers see that load from now on; the one before it is removed."""
        before, link = self.current(), self.root / f"{CURRENT}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        try:
            link.replace(self.root / CURRENT)
        except OSError as error:
            what, do = f"cannot be replaced ({error.strerror})", "remove it"
            raise StorageError("SINK", str(self.root / CURRENT), what, do) from None
        if before is not None and before != path:
            shutil.rmtree(before, ignore_errors=True)

    def close(self) -> None:
        """Lets others load."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
