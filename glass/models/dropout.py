"""Dropout whose mask is cheap on a CPU, where torch draws each element by itself.

There torch's dropout of [64, 150, 1024] takes as long as the matrix product before it: a generator
call an element, a float mask, and pages of memory that are touched for the first time. Here a call
makes four elements, in pieces that stay in cache. Elsewhere, and in compiled code, it is torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 2**16
_PIECE = 2**17
"""Elements of a mask at a time."""


def dropped(count: int, rate: float) -> Tensor:
    """bool [count] on the CPU; each is true with probability round(rate * 2^16) / 2^16."""
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count] < round(rate * _LEVELS) - _LEVELS // 2


def _drop_(flat: Tensor, rate: float) -> None:
    """Drops elements of a flat tensor and scales the others, in place."""
    for piece in torch.split(flat, _PIECE):
        piece.masked_fill_(dropped(piece.numel(), rate), 0.0).mul_(_scale(rate))


def _scale(rate: float) -> float:
    return _LEVELS / (_LEVELS - round(rate * _LEVELS))


def _draws_here(x: Tensor, rate: float) -> bool:
    """Whether the mask is ours to draw; a rate near 0 or 1 has too few levels."""
    inside = 0.001 < rate < 0.999
    return inside and x.device.type == "cpu" and not torch.compiler.is_compiling()


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        mask = dropped(x.numel(), rate).view(x.shape)
        ctx.save_for_backward(mask)
        ctx.scale = _scale(rate)
        return x.masked_fill(mask, 0.0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grad.masked_fill(mask, 0.0).mul_(ctx.scale), None


class _ReluDropout(torch.autograd.Function):
    """In place, and its result is all that is kept: it is above 0 just where both let through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        ctx.mark_dirty(x)
        _drop_(x.relu_().view(-1), rate)
        ctx.save_for_backward(x)
        ctx.scale = _scale(rate)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, out, 0).mul_(ctx.scale), None


class Dropout(nn.Dropout):
    """`nn.Dropout`, faster on a CPU; its masks are others than torch's from the same seed."""

    def forward(self, x: Tensor) -> Tensor:
        """x [...] -> [...]."""
        if not (self.training and _draws_here(x, self.p)):
            return super().forward(x)
        out: Tensor = _Dropout.apply(x, self.p)  # type: ignore[no-untyped-call]
        return out

    def of_relu_(self, x: Tensor) -> Tensor:
        """Dropout of relu(x); x [...] is overwritten and must be contiguous."""
        if not (self.training and _draws_here(x, self.p)):
            return super().forward(F.relu(x))
        out: Tensor = _ReluDropout.apply(x, self.p)  # type: ignore[no-untyped-call]
        return out
