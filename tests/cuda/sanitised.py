"""CUDA kernels on the CPU under AddressSanitizer and UBSan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import shimmed


def sanitised(
    op: str, calls: ModuleType, folder: Path, *flags: str, source: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the module `calls` in a process of its own, with a kernel that has the sanitizers in."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    runtimes = []
    for name in ("libasan.so", "libubsan.so"):
        command = ["g++", f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            pytest.skip(f"g++ has no {name}")
        runtimes.append(path)
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    library = shimmed.build(op, folder, *checks, *flags, source=source)
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    return subprocess.run(
        [sys.executable, str(calls.__file__), str(library)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
