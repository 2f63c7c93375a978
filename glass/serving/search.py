"""From snapshots of users to their lists of items: beam search, filters, ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glass.evaluation import ItemRanking, OwnCounts, SidCatalogue, rank_items_of_sids
from glass.generation import Beams, generate
from glass.serving.filters import Wanted, trie_filter
from glass.serving.histories import Snapshot
from glass.serving.history import Ints
from glass.serving.items import ItemTable
from glass.serving.reading import reading
from glass.systems import Model
from glass_kernels import SidTrie


@dataclass(frozen=True)
class Recommendation:
    """One recommended item."""

    rank: int
    """From 1."""
    raw_item_id: str
    title: str
    sid: tuple[int, ...]
    score: float
    """log P(item | user)."""
    repeat: bool
    """The item is in the user's history."""


@dataclass(frozen=True)
class SearchOptions:
    """How one request searches."""

    n: int
    """Items of a list, at most."""
    beam_width: int
    max_per_sid1: int | None = None

    def __post_init__(self) -> None:
        for name in ("n", "beam_width", "max_per_sid1"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class Searcher:
    """Answers for snapshots; changes nothing, so that threads may share it.

    Args:
        model, trie: in eval mode and on one device; `trie` of the model's SIDs. Items that it
            does not hold are not recommended, also where it holds their SIDs.
        items: of the same catalogue.

    Raises ValueError where these do not fit together.
    """

    def __init__(self, model: Model, trie: SidTrie, items: ItemTable) -> None:
        if not len(items) == len(model.codes) == trie.catalogue_size:
            raise ValueError(
                f"items holds {len(items)} items, the model {len(model.codes)} and the trie "
                f"{trie.catalogue_size}; they must be of one catalogue"
            )
        self.model = model
        self.trie = trie
        self.items = items
        held = np.zeros(len(items), dtype=bool)
        held[trie.item_ids.cpu().numpy()] = True
        self.catalogue = SidCatalogue(model.codes.cpu().numpy(), held)
        self.reading = reading(model)

    def candidates(self, items: Ints) -> Ints:
        """Those of `items` [n] that may be recommended, as far as the trie decides it."""
        if self.trie.num_items == len(self.items):
            return items
        return items[self.catalogue.candidates[items]]

    def __call__(
        self, batch: Sequence[Snapshot], wanted: Sequence[Wanted], options: SearchOptions
    ) -> list[list[Recommendation]]:
        """A list for each user of one model run; two where n items take more beams."""
        found = self._lists(batch, wanted, options, options.beam_width)
        if options.beam_width >= options.n or not self.items.settings.constrained:
            return found
        # n beams have n items, as a SID without any is not generated; or all that there are.
        number = [min(options.n, user.number(self.trie.num_items)) for user in wanted]
        short = [at for at, items in enumerate(found) if len(items) < number[at]]
        if short:
            part = [batch[at] for at in short], [wanted[at] for at in short]
            for at, items in zip(short, self._lists(*part, options, options.n), strict=True):
                found[at] = items
        return found

    def _lists(
        self,
        batch: Sequence[Snapshot],
        wanted: Sequence[Wanted],
        options: SearchOptions,
        beam_width: int,
    ) -> list[list[Recommendation]]:
        beams = self.beams(batch, wanted, beam_width, options.max_per_sid1)
        scores = beams.scores.float().cpu().numpy()
        sids = self.catalogue.lookup(beams.codes.cpu().numpy())
        ranked = rank_items_of_sids(
            np.where(np.isneginf(scores), -1, sids),
            scores,
            self._own_counts(batch),
            self.items.train_counts,
            self.catalogue,
            prior=self.items.settings.item_prior,
        )
        return [
            self._list(ranked, row, user, wanted[row], options.n) for row, user in enumerate(batch)
        ]

    def beams(
        self,
        batch: Sequence[Snapshot],
        wanted: Sequence[Wanted],
        beam_width: int,
        max_per_sid1: int | None = None,
    ) -> Beams:
        """The beams of each user, without SIDs that have no wanted item left."""
        settings = self.items.settings
        inputs = self.reading.batch(batch, has_clock=settings.time_unit == "seconds")
        return generate(
            self.model,
            inputs.to(self.trie.device),
            self.trie,
            beam_width=beam_width,
            constrained=settings.constrained,
            filter=trie_filter(self.trie, wanted) if settings.constrained else None,
            max_per_sid1=max_per_sid1,
        )

    def _own_counts(self, batch: Sequence[Snapshot]) -> OwnCounts:
        keys = [row * len(self.items) + user.counted[0].astype(np.int64)
                for row, user in enumerate(batch)]  # fmt: skip
        counts = [user.counted[1].astype(np.int64) for user in batch]
        return OwnCounts(np.concatenate(keys), np.concatenate(counts), len(self.items))

    def _list(
        self, ranked: ItemRanking, row: int, user: Snapshot, wanted: Wanted, n: int
    ) -> list[Recommendation]:
        items, scores = ranked.items[row], ranked.scores[row]
        chosen = np.flatnonzero(wanted.mask(items))[:n]
        repeat = user.has(items[chosen])
        return [
            Recommendation(
                rank=rank,
                raw_item_id=self.items.raw_ids[items[at]],
                title=self.items.titles[items[at]],
                sid=tuple(self.catalogue.codes[items[at]].tolist()),
                score=float(scores[at]),
                repeat=bool(repeat[rank - 1]),
            )
            for rank, at in enumerate(chosen.tolist(), start=1)
        ]
