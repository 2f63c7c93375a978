"""Jobs of several processes on this machine, as `torchrun` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(count: int, *arguments: str) -> list[str]:
    """`arguments`: a script and its arguments, or -m and a module's."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return [sys.executable, *launcher, *arguments]


def environment() -> dict[str, str]:
    """One thread each, and the helpers to be imported."""
    paths = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def torchrun(count: int, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs a job to its end; output is text."""
    return subprocess.run(
        command(count, *arguments),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
