"""Our layers in C for CPUs with AVX-512 or AMX: compiled here by gcc, once, into a cache.

torch leaves a CPU waiting for memory between its operators; here a block of tokens goes through a
whole layer inside a core's cache. No wheel brings it and none is needed: without a compiler, or on
another CPU, the same layers run in torch. `native/*.c` and `*.h` are the source.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent
VALUES = {"exact": 1, "fast": 2, "int8": 4}  # in 32 bits of a product's operand
VECTORS = ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
BF16, BYTES = (*VECTORS, "avx512_bf16"), (*VECTORS, "avx512_bf16", "avx512_vnni")
# (instructions, precision), the fastest first -> what /proc/cpuinfo must list; gcc is told the same
NEEDED = {
    ("amx", "exact"): (*BF16, "amx_tile", "amx_bf16"),
    ("amx", "fast"): (*BF16, "amx_tile", "amx_bf16"),
    ("amx", "int8"): (*BYTES, "amx_tile", "amx_bf16", "amx_int8"),
    ("avx512", "exact"): VECTORS,
    ("avx512", "fast"): BF16,
    ("avx512", "int8"): BYTES,
}
PARTS = 3  # of bf16, which fp32 is the sum of
PANEL = {"amx": 32, "avx512": 48}  # outputs whose weights lie together
FILL = {"amx": 64, "avx512": 48}  # every width is filled up to a multiple


@cache
def library(isa: str, precision: str) -> ctypes.CDLL | None:
    """The compiled layers; None where this CPU or this machine cannot have them."""
    needed = NEEDED.get((isa, precision))
    if needed is None or not {*needed} <= cpu_flags():
        return None
    options = ["-std=c11", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
    options += ["-m" + flag.replace("512_", "512").replace("_", "-") for flag in sorted(needed)]
    options += [f"-DVALUES={VALUES[precision]}", f"-DTILES={int(isa == 'amx')}"]
    try:
        found = _load(options, cache_folder() / f"{isa}-{precision}-{_digest(options)}.so")
    except (OSError, subprocess.SubprocessError):
        return None
    found.forward.restype = ctypes.c_size_t
    return None if found.prepare() else found


def cpu_flags() -> set[str]:
    """What the CPU can do, in Linux's words; nothing where there is no /proc."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii") as lines:
        return next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return set()


def cache_folder() -> Path:
    """Where compiled layers are kept; below no home there may be none."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "embedmill")


def _digest(options: list[str]) -> str:
    """Of all that decides what the compiler makes, but for its own version."""
    found = hashlib.sha256(" ".join(options).encode())
    for path in sorted(SOURCE.iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _load(options: list[str], kept: Path) -> ctypes.CDLL:
    """The library, compiled unless it is kept; OSError or SubprocessError where that fails."""
    if found := _kept(kept):
        return found
    compiler = shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("gcc")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, kept.name)
        command = [compiler, *options, str(SOURCE / "packed.c"), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        if kept.is_absolute():
            _keep(made, kept)
        return ctypes.CDLL(str(made))


def _ours(folder: Path) -> bool:
    """True if nobody but this user can write into a folder: the code in it is run."""
    entry = folder.lstat()
    return stat.S_ISDIR(entry.st_mode) and entry.st_uid == os.getuid() and not entry.st_mode & 0o022


def _kept(kept: Path) -> ctypes.CDLL | None:
    """The kept library; None if there is none, or it is another's, or not whole.

    What is loaded is a copy in memory of the bytes whose digest was compared, so that nothing can
    change between the two.
    """
    try:
        if not (kept.is_absolute() and _ours(kept.parent)):
            return None
        data = kept.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        return None
    memory = os.memfd_create(kept.name)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(data)
        return ctypes.CDLL(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)


def _keep(made: Path, kept: Path) -> None:
    """Puts a whole file in place, its digest behind it; a disk that takes none is no obstacle."""
    part = kept.with_suffix(f".{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _ours(kept.parent):
            return
        data = made.read_bytes()
        with part.open("wb") as file:
            file.write(data + hashlib.sha256(data).digest())
            file.flush()
            os.fsync(file.fileno())
        part.replace(kept)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
