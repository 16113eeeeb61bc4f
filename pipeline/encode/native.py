"""Our layers in C for CPUs with AVX-512: compiled by the machine's own gcc, once, into a cache.

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
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("native")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedmill"
VALUES = {"exact": 1, "fast": 2, "int8": 4}  # in 32 bits of a product's operand
# precision -> what /proc/cpuinfo must list; gcc is told the same
NEEDED = {
    "exact": ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "fast": ("avx512_bf16",),
    "int8": ("avx512_bf16", "avx512_vnni"),
}
# What makes torch's own product the faster one: tiles of bf16, eight times a vector's work.
BETTER = {"exact": None, "fast": "amx_bf16", "int8": None}


@cache
def library(precision: str) -> ctypes.CDLL | None:
    """The compiled layers; None where this CPU or this machine cannot have them."""
    needed, there = {*NEEDED["exact"], *NEEDED[precision]}, cpu_flags()
    if not needed <= there or BETTER[precision] in there:
        return None
    try:
        found = ctypes.CDLL(str(_built(precision, sorted(needed))))
    except (OSError, subprocess.SubprocessError):
        return None
    found.forward.restype = ctypes.c_size_t
    return found


def cpu_flags() -> set[str]:
    """What the CPU can do, in Linux's words; nothing where there is no /proc."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii") as lines:
        return next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return set()


def _built(precision: str, flags: list[str]) -> Path:
    """The library's file, compiled if it is not there; OSError or SubprocessError if it fails."""
    options = ["-std=c11", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
    options += [f"-DVALUES={VALUES[precision]}", *(f"-m{flag.replace('_', '')}" for flag in flags)]
    digest = hashlib.sha256(" ".join(options).encode())
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.read_bytes())
    name = f"{precision}-{digest.hexdigest()[:16]}.so"
    if (CACHE / name).exists():
        return CACHE / name
    compiler = shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("gcc")
    # Processes that compile at once each put a whole file in place.
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / name
        command = [compiler, *options, str(SOURCE / "packed.c"), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as copy:
            copy.write(made.read_bytes())
        os.replace(copy.name, CACHE / name)
    return CACHE / name
