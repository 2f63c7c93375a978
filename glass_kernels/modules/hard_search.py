"""Semantic hard search as a module: the search's settings and the codes' neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glass_kernels.checks import FLOATS, check_tensor
from glass_kernels.hard_search import HistoryIndex, bucket_history, hard_search


def nearest_codes(
    prototypes: Tensor, num_neighbours: int, *, occupied: Tensor | None = None
) -> Tensor:
    """The codes of largest prototype cosine, without the code itself: int32 [K, n].

    Args:
        prototypes: float [K, D]; a zero or non-finite prototype has cosine 0 with all others.
        num_neighbours: n; entries beyond the other codes that may be neighbours are -1.
        occupied: bool [K], codes that have items; the others are nobody's neighbours, since they
            would take a place and bring no event. None: all.

    The nearest comes first, and the lower code of equal cosines (GLASS, semantic neighbour
    augmentation). Raises ValueError for a wrong shape or dtype, or a negative `num_neighbours`.
    """
    check_tensor("prototypes", prototypes, ndim=2, dtypes=FLOATS)
    if num_neighbours < 0:
        raise ValueError(f"num_neighbours must be at least 0, was {num_neighbours}")
    num_codes = prototypes.shape[0]
    if occupied is not None:
        check_tensor(
            "occupied",
            occupied,
            shape=(num_codes,),
            dtypes=(torch.bool,),
            device=prototypes.device,
        )
    wide = prototypes.detach().double()
    usable = wide.isfinite().all(dim=1, keepdim=True)
    unit = nn.functional.normalize(wide.where(usable, torch.zeros_like(wide)), dim=1, eps=1e-300)
    cosines = (unit @ unit.T).fill_diagonal_(-torch.inf)
    if occupied is not None:
        cosines = cosines.masked_fill(~occupied, -torch.inf)
    values, ranked = cosines.sort(dim=1, descending=True, stable=True)
    ranked = ranked.masked_fill(values.isneginf(), -1)[:, :num_neighbours]
    missing = num_neighbours - ranked.shape[1]
    return nn.functional.pad(ranked, (0, missing), value=-1).int()


class HardSearch(nn.Module):
    """Retrieves history events that share a generated `sid1`; `glass_kernels.hard_search`.

    Args:
        num_codes: K, size of the first codebook.
        max_items: M, events a query retrieves at most.
        num_neighbours: n, neighbour codes of each code; 0 turns augmentation off.
        min_items: tau; smaller buckets are filled from the neighbours' up to it.
        prototypes: float [K, D]; the neighbours are computed from them. Without, there are none
            until `set_prototypes` or a loaded state dict brings them.
        occupied: bool [K], codes that have items; only they become neighbours. None: all.

    Attributes:
        neighbours: int32 [K, n], a buffer of the state dict; -1 is none.

    Raises ValueError for settings out of range.
    """

    neighbours: Tensor

    def __init__(
        self,
        num_codes: int,
        max_items: int,
        num_neighbours: int = 4,
        min_items: int = 10,
        *,
        prototypes: Tensor | None = None,
        occupied: Tensor | None = None,
    ) -> None:
        super().__init__()
        if num_codes < 1:
            raise ValueError(f"num_codes must be at least 1, was {num_codes}")
        if max_items < 1:
            raise ValueError(f"max_items must be at least 1, was {max_items}")
        if num_neighbours < 0:
            raise ValueError(f"num_neighbours must be at least 0, was {num_neighbours}")
        if min_items < 0:
            raise ValueError(f"min_items must be at least 0, was {min_items}")
        self.num_codes = num_codes
        self.max_items = max_items
        self.num_neighbours = num_neighbours
        self.min_items = min_items
        none = torch.full((num_codes, num_neighbours), -1, dtype=torch.int32)
        self.register_buffer("neighbours", none)
        if prototypes is not None:
            self.set_prototypes(prototypes, occupied)

    def set_prototypes(self, prototypes: Tensor, occupied: Tensor | None = None) -> None:
        """Computes the neighbours by `nearest_codes`; ValueError if K differs.

        Args:
            prototypes: float [K, D].
            occupied: bool [K], codes that have items; only they become neighbours. None: all.
        """
        check_tensor("prototypes", prototypes, shape=(self.num_codes, None), dtypes=FLOATS)
        self.neighbours.copy_(nearest_codes(prototypes, self.num_neighbours, occupied=occupied))

    def index(self, sid1: Tensor, offsets: Tensor) -> HistoryIndex:
        """Index of a batch of histories: `sid1` int [T], `offsets` int64 [B+1]."""
        return bucket_history(sid1, offsets, self.num_codes)

    def search(self, index: HistoryIndex, query: Tensor) -> tuple[Tensor, Tensor]:
        """(positions int32 [B, S, M], lengths int32 [B, S]) for query codes int [B, S]."""
        return hard_search(
            index,
            query,
            max_items=self.max_items,
            neighbours=self.neighbours if self.num_neighbours > 0 else None,
            min_items=self.min_items,
        )

    def forward(self, sid1: Tensor, offsets: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """`search(index(sid1, offsets), query)`."""
        return self.search(self.index(sid1, offsets), query)

    def extra_repr(self) -> str:
        """Settings shown by `print(module)`."""
        return (
            f"{self.num_codes}, max_items={self.max_items}, "
            f"num_neighbours={self.num_neighbours}, min_items={self.min_items}"
        )
