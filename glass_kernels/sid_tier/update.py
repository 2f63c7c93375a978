"""Keeps the counts of SID-Tier current as users act: O(K) an event, exact."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glass_kernels.backend import active_backend, cpp_at_once, resolve
from glass_kernels.checks import check_ids, check_tensor
from glass_kernels.sid_tier.library import AVAILABLE, sid_tier_update_cpp
from glass_kernels.sid_tier.tiers import chunks


def _touched(counts: Tensor, users: Tensor, item_ids: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Index of `counts` for every (event, code): three tensors that broadcast to [E, K]."""
    codes = torch.arange(counts.shape[1], device=counts.device)
    return users.to(torch.int64)[:, None], codes, table[item_ids].to(torch.int64)


def _add_(counts: Tensor, users: Tensor, item_ids: Tensor, table: Tensor, sign: int) -> None:
    step = torch.tensor(sign, dtype=counts.dtype, device=counts.device)
    for part in chunks(users.shape[0], counts.shape[1]):
        index = _touched(counts, users[part], item_ids[part], table)
        counts.index_put_(index, step, accumulate=True)


def _check_tiers(item_ids: Tensor, table: Tensor, num_tiers: int) -> None:
    for part in chunks(item_ids.shape[0], table.shape[1]):
        check_ids("table", table[item_ids[part]].to(torch.int32), 0, num_tiers)


_NEGATIVE = (
    "item_ids: removing these events would make a count negative; they were never added for these "
    "users. counts is unchanged"
)


def sid_tier_update_reference(
    counts: Tensor, users: Tensor, item_ids: Tensor, table: Tensor, remove: bool
) -> None:
    """See `sid_tier_update_`; any device, any strides."""
    _check_tiers(item_ids, table, counts.shape[2])
    _add_(counts, users, item_ids, table, -1 if remove else 1)
    if not remove:
        return
    for part in chunks(users.shape[0], counts.shape[1]):
        left = counts[_touched(counts, users[part], item_ids[part], table)]
        if left.numel() and bool((left < 0).any()):
            _add_(counts, users, item_ids, table, 1)
            raise ValueError(_NEGATIVE)


_UPDATE = {"reference": sid_tier_update_reference}
if AVAILABLE:
    _UPDATE["cpp"] = sid_tier_update_cpp


def _update_for(counts: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor, bool], None]:
    """The C++ kernel where it can be; the backends of a GPU have no update of their own."""
    name = active_backend()
    if name == "cpp":
        return resolve("sid_tier_update_", counts.device, name, _UPDATE)
    if name is None and AVAILABLE and counts.device.type == "cpu" and counts.is_contiguous():
        return sid_tier_update_cpp
    return sid_tier_update_reference


@torch.no_grad()
def sid_tier_update_(
    counts: Tensor, users: Tensor, item_ids: Tensor, table: Tensor, *, remove: bool = False
) -> Tensor:
    """Adds events to, or removes them from, the counts of SID-Tier, in place.

    counts[users[e], k, table[item_ids[e], k]] += 1 (or -= 1) for every event e and code k. Any
    sequence of adds and removes equals a recount; for a sliding window remove the oldest event.
    A user may occur many times in one call.

    Args:
        counts: int32 [B, K, N], changed in place; fastest if contiguous.
        users: [E] int32 or int64 row of `counts`.
        item_ids: [E] int32 or int64 row of `table`.
        table: uint8 [V, K] of `tier_table`.
        remove: subtract instead of add. This looks at the result, so a GPU is waited for.

    Returns `counts`.

    Raises ValueError, with `counts` unchanged, for wrong shapes, dtypes, devices, ids out of
    range, and for a removal that would make a count negative. In code compiled with
    `torch.compile`, what depends on values is a RuntimeError.
    """
    if "cpp" in _UPDATE and cpp_at_once(counts) and counts.is_contiguous():
        try:
            torch.ops.glass.sid_tier_update_(counts, users, item_ids, table, remove)
            return counts
        except RuntimeError:
            pass  # nothing was changed, and the checks below name the mistake
    check_tensor("counts", counts, ndim=3, dtypes=(torch.int32,))
    device = counts.device
    check_tensor("users", users, ndim=1, device=device)
    check_ids("users", users, 0, counts.shape[0])
    check_tensor("item_ids", item_ids, shape=(users.shape[0],), device=device)
    check_tensor(
        "table", table, shape=(None, counts.shape[1]), dtypes=(torch.uint8,), device=device
    )
    check_ids("item_ids", item_ids, 0, table.shape[0])
    _update_for(counts)(counts, users, item_ids, table, remove)
    return counts
