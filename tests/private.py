"""The suite's own folder: its home and all temporary files, so that it writes nowhere else.

conftest.py makes it before anything is imported that reads the environment. All processes of the
suite, pytest-xdist's workers too, inherit its name in EMBEDMILL_TESTS, which also tells whose they
are; the one that made it removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "EMBEDMILL_TESTS"
LONGEST = 107 if sys.platform == "linux" else 103  # letters of a socket's path
# The longest that the suite has: of a Ray that a test gives a folder of its own.
SESSION = "ray/session_2025-12-31_23-59-59_999999_4194304"
SOCKET = f"/em-abcdefgh/em-abcdefgh/{SESSION}/sockets/plasma_store"
# What could lead elsewhere; without these, all that follows HOME and TMPDIR.
PLACES = """
    HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE IPYTHONDIR JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR
    JUPYTER_RUNTIME_DIR MPLCONFIGDIR RAY_TMPDIR RCLONE_CACHE_DIR RCLONE_CONFIG TEMP TMP TORCH_HOME
    TORCHINDUCTOR_CACHE_DIR TORCH_EXTENSIONS_DIR TRANSFORMERS_CACHE TRITON_CACHE_DIR TRITON_HOME
    XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR XDG_STATE_HOME npm_config_cache
""".split()


@dataclass(frozen=True)
class Private:
    """The folder, and what the environment said before."""

    folder: Path
    home: Path
    temporary: Path

    def remove(self) -> None:
        """Takes it away, with folders that a test has left without rights."""
        for path, folders, _ in os.walk(self.folder):
            for name in folders:
                with contextlib.suppress(OSError):
                    if not os.path.islink(inner := os.path.join(path, name)):
                        os.chmod(inner, 0o700)
        shutil.rmtree(self.folder, ignore_errors=True)


def make_private() -> Private | None:
    """Makes the folder and points the environment to it; None in a process that inherits one."""
    if VARIABLE in os.environ:
        return None
    home, temporary = Path.home(), Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="em-", dir=_base(temporary)))
    if os.getuid() == 0:
        folder.chmod(0o711)  # who runs PostgreSQL for root passes through
    (folder / "home").mkdir(mode=0o700)
    for name in PLACES:
        os.environ.pop(name, None)
    # Where packages come from is the user's own matter.
    os.environ.setdefault("npm_config_userconfig", str(home / ".npmrc"))
    if (pip := home / ".config" / "pip" / "pip.conf").exists():
        os.environ.setdefault("PIP_CONFIG_FILE", str(pip))
    os.environ |= {VARIABLE: str(folder), "TMPDIR": str(folder), "HOME": str(folder / "home")}
    tempfile.tempdir = None  # it is asked again
    return Private(folder, home, temporary)


def _base(temporary: Path) -> Path:
    """The user's folder of temporary files, or another where a socket's path is short enough."""
    return next(filter(_fits, (temporary, Path("/tmp"), Path("/var/tmp"))), temporary)


def _fits(base: Path) -> bool:
    short = len(os.fsencode(f"{base.absolute()}{SOCKET}")) <= LONGEST
    # Another user must be able to come in where the suite is root's.
    passable = os.getuid() != 0 or all(
        path.stat().st_mode & 0o001 for path in (base, *base.absolute().parents) if path.exists()
    )
    return short and passable and os.access(base, os.W_OK | os.X_OK)
