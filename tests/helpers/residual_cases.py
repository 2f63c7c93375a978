"""Vectors and codebooks for which the nearest centroid is hard to tell by products alone."""

from __future__ import annotations

import torch
from torch import Tensor


def near_cases(codes: int, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    """Vectors [70, 24] and codebooks [2, codes, 24], by what is hard about them."""
    x, books, offset = torch.randn(70, 24), torch.randn(2, codes, 24), torch.randn(24)
    outlier = books.clone()
    outlier[:, 7] *= 1e10
    cases = {
        "whole numbers": (x.round(), books.round()),
        "equal centroids": (x, books[:, : codes // 10].repeat(1, 10, 1)),
        "all equal": (x, books[:, :1].expand(2, codes, 24)),
        "zeros": (torch.zeros(70, 24), books),
        "zero centroids": (x, torch.zeros(2, codes, 24)),
        "half way": (
            (books[0, torch.arange(70) % codes] + books[0, torch.arange(1, 71) % codes]) / 2,
            books,
        ),
        "at a distance": (1e5 + x, 1e5 + books),
        "vectors at a distance": (1e6 + x, books),
        "centroids at a distance": (x, 1e6 + books),
        "close centroids": (x, offset + 1e-6 * books),
        "all close": (offset + 1e-6 * x, offset + 1e-6 * books),
        "a centroid far off": (x, outlier),
        "squares vanish": (1e-22 * x, 1e-22 * books),
        "too small": (1e-40 * x, 1e-40 * books),
        "squares overflow": (3e19 * x, books),
        "squares nearly overflow": (1e18 * x, 1e18 * books),
        "products overflow": (1e30 * x, 1e30 * books),
        "nearly infinite": (5e37 * x, 5e37 * books),
    }
    return {name: (a.to(dtype), b.to(dtype)) for name, (a, b) in cases.items()}
