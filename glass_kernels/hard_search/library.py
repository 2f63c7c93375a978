"""`glass::bucket_history` and `glass::hard_search` of the library, called.

The kernels look at every value anyway, so nothing is looked at beforehand. Only when one refuses
do the checks run that name the mistake. In compiled code there is no such second look, and a
mistake is a RuntimeError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.hard_search.checks import check_history, check_search
from glass_kernels.hard_search.fakes import bucket_history_fake, hard_search_fake
from glass_kernels.hard_search.reference import HistoryIndex

AVAILABLE = library.load("cpp")[0]

if AVAILABLE:
    torch.library.register_fake("glass::bucket_history")(bucket_history_fake)
    torch.library.register_fake("glass::hard_search")(hard_search_fake)


def bucket_history_cpp(sid1: Tensor, offsets: Tensor, num_codes: int) -> HistoryIndex:
    """The C++ kernel; see `glass_kernels.bucket_history`."""
    run = torch.ops.glass.bucket_history
    if torch.compiler.is_compiling():
        return HistoryIndex(*run(sid1, offsets, num_codes))
    try:
        return HistoryIndex(*run(sid1, offsets, num_codes))
    except RuntimeError:
        check_history(sid1, offsets, num_codes)
        raise


def hard_search_cpp(
    index: HistoryIndex,
    query_sid1: Tensor,
    *,
    max_items: int,
    neighbours: Tensor | None = None,
    min_items: int = 0,
) -> tuple[Tensor, Tensor]:
    """The C++ kernel; see `glass_kernels.hard_search`."""
    arguments = (*index, query_sid1, neighbours, max_items, min_items)
    run = torch.ops.glass.hard_search
    if torch.compiler.is_compiling():
        compiled: tuple[Tensor, Tensor] = run(*arguments)
        return compiled
    try:
        result: tuple[Tensor, Tensor] = run(*arguments)
    except RuntimeError:
        check_search(index, query_sid1, neighbours)
        raise
    return result
