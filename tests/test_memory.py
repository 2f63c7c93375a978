"""Large blocks that are freed and asked for again cost no page faults once they are kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from glass.memory import keep_freed_memory

SCRIPT = """
import ctypes, resource, sys
from glass.memory import keep_freed_memory

libc, size = ctypes.CDLL(None), 64 << 20
libc.malloc.restype = ctypes.c_void_p

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    libc.memset(block, 1, ctypes.c_size_t(size))
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = [faults() for _ in range(3)]
done = keep_freed_memory()
print(done, given_back[-1], [faults() for _ in range(3)][-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is on Linux")
def test_large_blocks_are_kept() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    done, given_back, kept = run.stdout.split()
    if done == "False":
        pytest.skip("another libc than glibc")
    # A huge page is one fault: 32 of them at the least.
    assert int(given_back) >= 32
    assert int(kept) < 8


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
