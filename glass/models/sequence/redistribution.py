"""How far training moved items from their SIDs."""

from __future__ import annotations

from torch import Tensor


def moved_share(assigned: Tensor, codes: Tensor) -> Tensor:
    """Share of items at each level whose best code is not that of their SID: float64 [L].

    Args:
        assigned: int [V, L], the best codes, such as the largest of `IntRR.assignments()`.
        codes: int [V, L], the SIDs.
    """
    return (assigned != codes).double().mean(dim=0)
