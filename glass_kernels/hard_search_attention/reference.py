"""Attention to retrieved items in plain PyTorch: what every other backend is judged by."""

from __future__ import annotations

import torch
from torch import Tensor


def hard_search_attention_reference(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Gather every retrieved token and attend to it; shapes as in `hard_search_attention`."""
    with torch.autocast(query.device.type, enabled=False):
        dtype = accumulation_dtype(query)
        slots = torch.arange(positions.shape[2], device=positions.device)
        filled = (slots < lengths[..., None]) & (positions >= 0)  # [B, S, M]
        if tokens.shape[0] == 0:  # nothing to gather from: one dummy event that no set holds
            tokens = tokens.new_zeros(1, tokens.shape[1])
        gathered = tokens[positions.clamp(0, tokens.shape[0] - 1)].long().flatten(2)
        keys = key_table.to(dtype)[gathered]  # [B, S, M * n_tok, H, Dh]
        values = value_table.to(dtype)[gathered]
        scores = torch.einsum("bsphd,bsthd->bspht", query.to(dtype), keys) * scale
        masked = ~filled.repeat_interleave(tokens.shape[1], dim=2)[:, :, None, None, :]
        weights = scores.masked_fill(masked, torch.finfo(dtype).min).softmax(dim=-1)
        # Also turns the uniform weights of an empty set into zeros, with zero gradients.
        weights = weights.masked_fill(masked, 0.0)
        return torch.einsum("bspht,bsthd->bsphd", weights, values).to(query.dtype)


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """float64 stays float64 (for gradcheck); everything else accumulates in float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
