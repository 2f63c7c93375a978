"""`glass::sid_tier_from_embeddings` and `glass::tier_table`: fakes, no gradient, C++ wrappers."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.sid_tier.fakes import histogram_of_vectors, no_gradient

AVAILABLE = library.load("cpp")[0]


def _fake_table(item_embeddings: Tensor, prototypes: Tensor, edges: Tensor) -> Tensor:
    shape = (item_embeddings.shape[0], prototypes.shape[0])
    return item_embeddings.new_empty(shape, dtype=torch.uint8)


if AVAILABLE:
    torch.library.register_fake("glass::sid_tier_from_embeddings")(histogram_of_vectors)
    torch.library.register_fake("glass::tier_table")(_fake_table)
    torch.library.register_autograd("glass::sid_tier_from_embeddings", no_gradient)


def sid_tier_from_embeddings_cpp(
    item_ids: Tensor,
    offsets: Tensor,
    item_embeddings: Tensor,
    prototypes: Tensor,
    edges: Tensor,
    normalize: bool,
) -> Tensor:
    """The C++ kernel; see `glass_kernels.sid_tier_from_embeddings`."""
    result: Tensor = torch.ops.glass.sid_tier_from_embeddings(
        item_ids, offsets, item_embeddings.detach(), prototypes.detach(), edges.detach(), normalize
    )
    return result


def tier_table_cpp(item_embeddings: Tensor, prototypes: Tensor, edges: Tensor) -> Tensor:
    """The C++ kernel; see `glass_kernels.tier_table`."""
    result: Tensor = torch.ops.glass.tier_table(
        item_embeddings.detach(), prototypes.detach(), edges.detach()
    )
    return result
