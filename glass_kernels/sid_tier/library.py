"""`glass::sid_tier` and its update: schemas and kernels are in the library, the rest is here."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.sid_tier.fakes import histogram_of_table, no_gradient

AVAILABLE = library.load("cpp")[0]


def _update_fake(
    counts: Tensor, users: Tensor, item_ids: Tensor, table: Tensor, remove: bool
) -> None:
    return None


if AVAILABLE:
    torch.library.register_fake("glass::sid_tier")(histogram_of_table)
    torch.library.register_fake("glass::sid_tier_update_")(_update_fake)
    torch.library.register_autograd("glass::sid_tier", no_gradient)


def sid_tier_cpp(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    """The C++ kernel; see `glass_kernels.sid_tier`."""
    result: Tensor = torch.ops.glass.sid_tier(item_ids, offsets, table, num_tiers, normalize)
    return result


# what only the kernel finds out, since looking costs as much as the update
_MISTAKES = ("item_ids: removing these events", "table must be in")


def sid_tier_update_cpp(
    counts: Tensor, users: Tensor, item_ids: Tensor, table: Tensor, remove: bool
) -> None:
    """The C++ kernel, for contiguous `counts`; see `glass_kernels.sid_tier_update_`.

    A caller's mistake that the kernel finds is a ValueError, in compiled code a RuntimeError.
    """
    if users.dtype != item_ids.dtype:
        users, item_ids = users.to(torch.int64), item_ids.to(torch.int64)
    update = torch.ops.glass.sid_tier_update_
    if torch.compiler.is_compiling():
        update(counts, users, item_ids, table, remove)
        return
    try:
        update(counts, users, item_ids, table, remove)
    except RuntimeError as error:
        mistake = library.caller_mistake(error, _MISTAKES)
        if mistake is not None:
            raise mistake from None
        raise
