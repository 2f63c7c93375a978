"""CUDA kernels on the CPU under AddressSanitizer and UBSan, or under ThreadSanitizer."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import shimmed

Done = subprocess.CompletedProcess[str]


def _runtime(*names: str) -> str:
    """Value of LD_PRELOAD, for a Python that was not built with these sanitizers."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    paths = []
    for name in names:
        command = ["g++", f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            pytest.skip(f"g++ has no {name}")
        paths.append(path)
    return " ".join(paths)


def _run(command: Sequence[str | Path], timeout: float | None = None, **environment: str) -> Done:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def sanitised(
    op: str, calls: ModuleType, folder: Path, *flags: str, source: str | None = None
) -> Done:
    """Runs the module `calls` in a process of its own, with a kernel that has the sanitizers in."""
    runtimes = _runtime("libasan.so", "libubsan.so")
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    library = shimmed.build(op, folder, *checks, *flags, source=source)
    command = [sys.executable, str(calls.__file__), str(library)]
    return _run(command, LD_PRELOAD=runtimes, ASAN_OPTIONS="detect_leaks=0")


WATCHED = "-fsanitize=thread"
"""Flag of a build for `watched`."""

RACE = 66
"""Exit status of what `watched` found a race in."""


@functools.cache
def _at_fixed_addresses() -> tuple[str, ...]:
    """ThreadSanitizer knows some layouts of memory only, and random ones are not among them."""
    fixed = ("setarch", "-R")
    works = shutil.which("setarch") and _run([*fixed, "true"]).returncode == 0
    return fixed if works else ()


def watched(command: Sequence[str | Path], *, python: bool = True, **environment: str) -> Done:
    """Runs a command under ThreadSanitizer, up to the first race; `python`: that has none in it."""
    if python:
        environment["LD_PRELOAD"] = _runtime("libtsan.so")
    options = f"exitcode={RACE} halt_on_error=1 report_thread_leaks=0"
    fixed = [*_at_fixed_addresses(), *command]
    done = _run(fixed, timeout=300, TSAN_OPTIONS=options, OPENBLAS_NUM_THREADS="1", **environment)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not know this layout of memory, and setarch -R is barred")
    return done


def racing_lines(report: str, file: str) -> list[int]:
    """Lines of `file` that the accesses of a report are at, or are called from."""
    accesses = re.findall(r"(?:read|write) of size .*\n((?: +#\d.*\n)+)", report, re.I)
    lines = [re.search(rf"/{re.escape(file)}:(\d+)", stack) for stack in accesses]
    return [int(line[1]) for line in lines if line]
