"""Gated fusion in plain PyTorch: the equation every other backend is judged by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear


def gated_fusion_reference(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None = None,
    *,
    gate_input: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and gate, both [..., d]; arguments as in `gated_fusion`."""
    with torch.autocast(short.device.type, enabled=False):
        dtype = torch.float64 if short.dtype == torch.float64 else torch.float32
        near, far = short.to(dtype), retrieved.to(dtype)
        absent = None if has_retrieval is None else ~has_retrieval[..., None]
        first = near if gate_input is None else gate_input.to(dtype)
        if absent is not None:  # such rows may hold anything, NaN included
            first, far = first.masked_fill(absent, 0.0), far.masked_fill(absent, 0.0)
        logits = linear(torch.cat([first, far], dim=-1), weight.to(dtype), bias.to(dtype))
        gate = torch.sigmoid(logits)
        if absent is not None:
            gate = gate.masked_fill(absent, 0.0)
        fused = near + gate * (far - near)
        if absent is not None:
            fused = torch.where(absent, near, fused)
        return fused.to(short.dtype), gate.to(short.dtype)
