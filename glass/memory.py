"""Keeps freed memory with the process, so that training does not fetch it anew at every step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc to reuse large blocks instead of giving them back; whether it could.

    A training step on a CPU makes and frees the same tensors of 10 MB and more each time. By
    default each of them is mapped and unmapped, and its pages are zeroed by the kernel at their
    first touch: a quarter of a step at the paper's sizes. The process then keeps its peak until it
    ends. Elsewhere than on Linux with glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another libc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
