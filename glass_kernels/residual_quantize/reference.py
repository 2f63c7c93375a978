"""Residual quantisation in plain PyTorch: the equation every other backend is judged by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Differences [rows, K, D] of one block; this size stays in a CPU's cache.
BLOCK_ELEMENTS = 2**20


@torch.no_grad()
def residual_quantize_reference(
    x: Tensor, codebooks: Sequence[Tensor], normalize_residual: bool = False
) -> Tensor:
    """Codes int32 [V, L]; shapes as in `residual_quantize`.

    Differences are squared and summed as they are: expanding the square would cancel digits, and
    two equal centroids could come out at different distances. Sums are float64, rounded once at
    the end, so that neither their order nor the backend decides between near centroids.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    codes = torch.empty(x.shape[0], len(codebooks), dtype=torch.int32, device=x.device)
    most_centroids = max(codebook.shape[0] for codebook in codebooks)
    num_rows = max(1, BLOCK_ELEMENTS // (most_centroids * max(1, x.shape[1])))
    centroids = [codebook.to(dtype) for codebook in codebooks]
    for start in range(0, x.shape[0], num_rows):
        rows = slice(start, start + num_rows)
        codes[rows] = _quantize_block(x[rows].to(dtype), centroids, normalize_residual)
    return codes


def _quantize_block(residual: Tensor, codebooks: list[Tensor], normalize_residual: bool) -> Tensor:
    """Codes int64 [rows, L] of `residual` [rows, D]."""
    codes = []
    for codebook in codebooks:
        if normalize_residual:
            norm = _squares(residual).double().sqrt_().to(residual.dtype)[:, None]
            residual = residual / torch.where(norm > 0, norm, 1)
        distances = _squares(residual[:, None] - codebook)
        nearest = distances.argmin(dim=1)  # the first of equal minima
        codes.append(nearest)
        residual = residual - codebook[nearest]
    return torch.stack(codes, dim=1)


def _squares(values: Tensor) -> Tensor:
    """Sums of squares over the last dimension, in the dtype of `values`."""
    return values.double().square().sum(-1).to(values.dtype)
