"""Recursive assignment's step in plain PyTorch: the equation every other backend is judged by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED_TARGET = -100


def codebook_assign_reference(
    query: Tensor, codebook: Tensor, target: Tensor | None = None, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Assigned vectors, indices and loss; shapes as in `codebook_assign`."""
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
        codes = codebook.to(dtype)
        logits = query.to(dtype) @ codes.T  # [T, K]
        index = logits.argmax(dim=1)  # the first of equal maxima
        soft = torch.softmax(logits / temperature, dim=1) @ codes
        # soft - soft.detach() is exactly 0, so the value is the code itself, to the last bit.
        assigned = codes.detach()[index] + (soft - soft.detach())
        loss = None
        if target is not None:
            loss = cross_entropy(
                logits, target.long(), ignore_index=IGNORED_TARGET, reduction="none"
            )
        return assigned.to(query.dtype), index, loss
