"""From generated SIDs to a list of items."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glass.generation.beam import Beams
from glass_kernels import SidTrie
from glass_kernels.checks import FLOATS, check_tensor
from glass_kernels.jagged import offsets_to_segments
from glass_kernels.trie.filter import item_pairs

ItemLists = tuple[Tensor, Tensor]
"""A list of items for each of B users: item ids int [T] and offsets int64 [B+1]."""


@dataclass(frozen=True)
class Ranked:
    """The best items of B users, best first; equal ones by item id."""

    items: Tensor
    """int32 [B, n]; -1 where the beams hold fewer items."""
    scores: Tensor
    """[B, n] log P(item | user), of the beams' dtype; -inf beside an item of -1."""
    sids: Tensor
    """int64 [B, n, L] the SID of each item; -1 beside an item of -1."""


@torch.no_grad()
def top_items(
    beams: Beams,
    trie: SidTrie,
    n: int,
    *,
    exclude: ItemLists | None = None,
    allow: ItemLists | None = None,
    popularity: Tensor | None = None,
    history: ItemLists | None = None,
    prior: float = 1.0,
) -> Ranked:
    """The `n` most probable items among those of all beams.

    Items that share a SID share its probability, by the rule of
    `glass.evaluation.rank_items`: P(item | user) = P(SID | user) q(item), where

        q(item) = (own(item) + prior * pop(item) / pop(SID)) / (own(SID) + prior)

    own counts the user's history, pop is `popularity`, and both are summed over the items of a SID.
    An item that is left out keeps its share: the scores of others do not depend on it. Pass a
    filter of the same items to `generate` too, so that no beam is spent on them.

    Args:
        beams: of `generate`.
        trie: the catalogue; `trie.restrict(...)` leaves items out for all users.
        n: items a user, at least 1.
        exclude: items that each user must not get.
        allow: the only items that each user may get.
        popularity: float or int [catalogue_size], above 0; None: equal.
        history: items of each user's history, repeated as often as they occurred.
        prior: weight of popularity against the user's own events, above 0.

    Raises:
        ValueError: n below 1, a prior that is not a positive number, lists of another number of
            users or with ids outside the catalogue, or wrong shapes and dtypes.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, was {n}")
    users, width, levels = beams.codes.shape
    item_ids, offsets = trie.items(beams.codes)
    item = item_ids.long()
    beam = offsets_to_segments(offsets, len(item))
    user = beam // max(width, 1)
    pairs = user * trie.catalogue_size + item
    share = _share(
        trie, item, beam, pairs, users * width, popularity, _counted(history, trie, users), prior
    )
    score = beams.scores.flatten()[beam].double() + share.log()
    kept = score > -torch.inf
    if allow is not None:
        kept &= torch.isin(pairs, _listed("allow", allow, trie, users))
    if exclude is not None:
        kept &= ~torch.isin(pairs, _listed("exclude", exclude, trie, users))
    item, score, user, beam = (part[kept] for part in (item, score, user, beam))
    # Three stable sorts, the last of them the first to decide.
    order = item.argsort(stable=True)
    order = order[score[order].argsort(descending=True, stable=True)]
    order = order[user[order].argsort(stable=True)]
    row = user[order]
    place = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    first = place < n
    row, place, order = row[first], place[first], order[first]
    items = item.new_full((users, n), -1, dtype=torch.int32)
    scores = score.new_full((users, n), -torch.inf, dtype=beams.scores.dtype)
    sids = beams.codes.new_full((users, n, levels), -1)
    items[row, place] = item[order].int()
    scores[row, place] = score[order].to(scores.dtype)
    sids[row, place] = beams.codes.flatten(0, 1)[beam[order]]
    return Ranked(items, scores, sids)


def _listed(name: str, lists: ItemLists, trie: SidTrie, users: int) -> Tensor:
    """Pairs of (user, item) as one number, distinct."""
    pairs, size = item_pairs(name, lists, trie.catalogue_size, trie.device)
    _check_users(name, size, users)
    return pairs


def _check_users(name: str, size: int, users: int) -> None:
    if size != users:
        raise ValueError(f"{name} must be of the {users} users of the beams, was of {size}")


def _counted(lists: ItemLists | None, trie: SidTrie, users: int) -> tuple[Tensor, Tensor] | None:
    """Distinct pairs of the histories and how often each occurs."""
    if lists is None:
        return None
    _listed("history", lists, trie, users)
    rows = offsets_to_segments(lists[1], len(lists[0]))
    pairs, counts = torch.unique(rows * trie.catalogue_size + lists[0], return_counts=True)
    return pairs, counts


def _share(
    trie: SidTrie,
    item: Tensor,
    beam: Tensor,
    pairs: Tensor,
    num_beams: int,
    popularity: Tensor | None,
    own_of_pair: tuple[Tensor, Tensor] | None,
    prior: float,
) -> Tensor:
    """q of each candidate, float64 [T]."""
    if not 0 < prior < float("inf"):
        raise ValueError(f"prior must be a number above 0, was {prior}")
    known = torch.ones(len(item), dtype=torch.float64, device=item.device)
    if popularity is not None:
        check_tensor(
            "popularity", popularity, shape=(trie.catalogue_size,),
            dtypes=(*FLOATS, torch.int32, torch.int64), device=trie.device,
        )  # fmt: skip
        known = popularity[item].double()
        if not bool((known > 0).all()):
            raise ValueError("popularity must be above 0 everywhere; add 1 to counts")

    def of_sid(values: Tensor) -> Tensor:
        return values.new_zeros(num_beams).index_add_(0, beam, values)[beam]

    known = known / of_sid(known)
    if own_of_pair is None or len(own_of_pair[0]) == 0:
        return known
    distinct, counts = own_of_pair
    place = torch.searchsorted(distinct, pairs).clamp(max=len(distinct) - 1)
    own = torch.where(distinct[place] == pairs, counts[place], 0).double()
    return (own + prior * known) / (of_sid(own) + prior)
