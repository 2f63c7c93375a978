"""From vectors and codebooks to codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from glass.data.array_file import read_array
from glass.sid.files import replaced_file
from glass.workers import ONE_PROCESS, Workers
from glass_kernels import residual_quantize

Vectors = npt.NDArray[np.float32]

ROWS_AT_A_TIME = 1 << 18
"""Most items that `assign_parts` assigns at a time."""


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
        _tensor(vectors),
        [_tensor(book) for book in codebooks],
        normalize_residual=normalize_residual,
    ).numpy()
    return codes


def _tensor(array: Vectors) -> torch.Tensor:
    """Torch warns of arrays that nobody may write to, as those from another process are."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def assign_parts(
    vectors: Vectors,
    codebooks: Sequence[Vectors],
    *,
    normalize_residual: bool = False,
    encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    workers: Workers = ONE_PROCESS,
    work: Path | None = None,
) -> npt.NDArray[np.int32]:
    """`assign` for a whole catalogue, at most `ROWS_AT_A_TIME` items at a time.

    A code depends on the item's own vector alone. What `encode` makes of it is the same for any
    number of items but a handful, for which a matrix product adds up in another order (and on
    another kind of processor, which may decide between codes that are equally near).

    Args:
        vectors: float32 [V, D].
        codebooks: one float32 [K, C] a level.
        normalize_residual: scale the residual to unit length before each level.
        encode: of float32 [B, D] what is quantised, [B, C]; can be pickled. None: the vectors are.
        workers: assign the parts; those of several processes read the vectors in a file.
        work: folder for that file, seen by all workers; None: the system's.

    Returns:
        int32 [V, L].

    Raises:
        OSError: `work` cannot be written.
    """
    count = -(-len(vectors) // ROWS_AT_A_TIME)
    # Equally large, so that no part is only a handful of items.
    edges = [len(vectors) * i // count for i in range(count)] + [len(vectors)]
    codes = np.empty((len(vectors), len(codebooks)), np.int32)
    with ExitStack() as stack:
        source: Vectors | Path = vectors
        if workers.several:
            room = stack.enter_context(
                TemporaryDirectory(prefix="vectors-", dir=work, ignore_cleanup_errors=True)
            )
            source = Path(room).absolute() / "vectors.npy"
            with replaced_file(source) as temporary:
                np.save(temporary, vectors)
        assign_rows = _AssignRows(source, tuple(codebooks), normalize_residual, encode)
        parts = list(pairwise(edges))
        for (first, end), found in zip(parts, workers.map(assign_rows, parts), strict=True):
            codes[first:end] = found
    return codes


@dataclass(frozen=True)
class _AssignRows:
    """Codes of the rows [first, end) of vectors, or of a file of them."""

    vectors: Vectors | Path
    codebooks: tuple[Vectors, ...]
    normalize_residual: bool
    encode: Callable[[torch.Tensor], torch.Tensor] | None

    def __call__(self, part: tuple[int, int]) -> npt.NDArray[np.int32]:
        if isinstance(self.vectors, Path):
            rows = np.array(read_array(self.vectors)[slice(*part)])
        else:
            rows = self.vectors[slice(*part)]
        if self.encode is not None:
            with torch.no_grad():
                rows = self.encode(torch.from_numpy(rows)).numpy()
        return assign(rows, self.codebooks, normalize_residual=self.normalize_residual)


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
