"""From vectors and codebooks to codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_FAR = 1e9  # squares stay finite in float32, and no item is nearer to this than to a real code


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
    width = max(len(book) for book in codebooks)
    padded = np.full((len(codebooks), width, vectors.shape[1]), _FAR, np.float32)
    for level, book in enumerate(codebooks):
        padded[level, : len(book)] = book
    codes = _residual_quantize(
        torch.from_numpy(np.ascontiguousarray(vectors)),
        torch.from_numpy(padded),
        normalize_residual=normalize_residual,
    ).numpy()
    for level, book in enumerate(codebooks):
        # Equal centroids tie only up to rounding; name the first of them.
        _, first, group = np.unique(book, axis=0, return_index=True, return_inverse=True)
        codes[:, level] = first[group.ravel()][codes[:, level]]
    return codes


def _residual_quantize(
    vectors: torch.Tensor, codebooks: torch.Tensor, *, normalize_residual: bool, rows: int = 65536
) -> torch.Tensor:
    parts = []
    for start in range(0, max(len(vectors), 1), rows):
        residual = vectors[start : start + rows]
        levels = []
        for book in codebooks:
            if normalize_residual:
                residual = torch.nn.functional.normalize(residual, dim=-1)
            # |r - c|^2 without |r|^2, which is the same for every code.
            code = (book.square().sum(-1) - 2 * residual @ book.T).argmin(-1)
            residual = residual - book[code]
            levels.append(code)
        parts.append(torch.stack(levels, -1))
    return torch.cat(parts).to(torch.int32)


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
