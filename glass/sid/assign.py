"""From vectors and codebooks to codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from glass_kernels import residual_quantize


def assign(
    vectors: npt.NDArray[np.float32],
    codebooks: Sequence[npt.NDArray[np.float32]],
    *,
    normalize_residual: bool = False,
) -> npt.NDArray[np.int32]:
    """Nearest code of each level on the running residual; the lowest code on ties.

    Args:
        vectors: float32 [V, D].
        codebooks: one float32 [K, D] a level, K free per level.
        normalize_residual: scale the residual to unit length before each level.

    Returns:
        int32 [V, L].
    """
    codes: npt.NDArray[np.int32] = residual_quantize(
        torch.from_numpy(np.ascontiguousarray(vectors)),
        [torch.from_numpy(np.ascontiguousarray(book)) for book in codebooks],
        normalize_residual=normalize_residual,
    ).numpy()
    return codes


def number_duplicates(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The de-duplication level: 0 for a unique SID, else 1..n within its items, in item order.

    Args:
        codes: int32 [V, L].

    Returns:
        int32 [V].
    """
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    start = np.cumsum(size) - size
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - start[group[order]]
    return np.where(size[group] == 1, 0, place + 1).astype(np.int32)
