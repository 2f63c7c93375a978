"""Do items that are near in vectors get SIDs that begin alike?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

NUM_NEIGHBOURS = 10
_QUERIES = 4096  # their mean is known to about a percentage point
_FEWEST_QUERIES = 256
_PRODUCTS = 10**11  # multiplications that the search may take: seconds


@dataclass(frozen=True)
class NeighbourAgreement:
    """Shares of item pairs whose SIDs begin alike; entry l is for the first l + 1 codes."""

    num_neighbours: int
    """Nearest items by cosine that were looked at, of each query."""
    num_queries: int
    """Items whose neighbours were looked at."""
    nearest: tuple[float, ...]
    """Share of those neighbours that have the same first codes as their query."""
    chance: tuple[float, ...]
    """The same share of all pairs of different items."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "num_neighbours": self.num_neighbours,
            "num_queries": self.num_queries,
            "nearest": [round(share, 6) for share in self.nearest],
            "chance": [round(share, 6) for share in self.chance],
        }


def neighbour_agreement(
    vectors: npt.NDArray[np.float32],
    codes: npt.NDArray[np.int32],
    *,
    num_neighbours: int = NUM_NEIGHBOURS,
    seed: int = 0,
) -> NeighbourAgreement | None:
    """How often an item's nearest items share its first codes, against chance.

    Args:
        vectors: float32 [V, D]; zero rows mean "no vector" and are left out.
        codes: int32 [V, L], without a de-duplication level.
        num_neighbours: nearest items of each query; exact search by cosine.
        seed: draws the queries of a catalogue that has too many.

    Returns:
        None where fewer than two items have a vector.
    """
    present = np.flatnonzero(vectors.any(axis=1))
    if len(present) < 2:
        return None
    unit = vectors[present] / np.linalg.norm(vectors[present], axis=1, keepdims=True)
    codes = codes[present]
    affordable = max(_FEWEST_QUERIES, min(_QUERIES, _PRODUCTS // unit.size))
    queries = np.arange(len(unit))
    if affordable < len(unit):
        queries = np.random.default_rng(seed).choice(len(unit), affordable, replace=False)
    found = _nearest_others(unit, queries, min(num_neighbours, len(unit) - 1))
    # [queries, neighbours, L]: equal so far, up to each level
    alike = np.logical_and.accumulate(codes[found] == codes[queries][:, None, :], axis=2)
    chance = []
    for depth in range(1, codes.shape[1] + 1):
        _, sizes = np.unique(codes[:, :depth], axis=0, return_counts=True)
        pairs = len(codes) * (len(codes) - 1)
        chance.append(float((sizes * (sizes - 1)).sum() / pairs))
    return NeighbourAgreement(
        found.shape[1], len(queries), tuple(alike.mean(axis=(0, 1)).tolist()), tuple(chance)
    )


def _nearest_others(
    unit: npt.NDArray[np.float32], queries: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """int64 [queries, count] nearest rows of each query row, itself left out."""
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(np.ascontiguousarray(unit, np.float32))
    _, found = index.search(np.ascontiguousarray(unit[queries], np.float32), count + 1)
    others = found != queries[:, None]
    # Among many equal vectors the query itself may be missing: then the last one goes.
    others[others.all(axis=1), -1] = False
    result: npt.NDArray[np.int64] = found[others].reshape(len(queries), count)
    return result
