"""Recommendations for named users from their whole history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glass.data import Dataset, Samples
from glass.evaluation import SidCatalogue, rank_items
from glass.pipeline.check import NEURAL
from glass.pipeline.neural import decode_samples, load_system, trained_on

if TYPE_CHECKING:
    from glass.pipeline.run import Run


@dataclass(frozen=True)
class Recommendation:
    """One recommended item."""

    rank: int
    raw_item_id: str
    title: str
    sid: tuple[int, ...]
    score: float
    """log P(item | user)."""
    repeat: bool
    """The item is in the user's history."""


def recommend(
    run: Run,
    users: Sequence[str],
    *,
    num_items: int = 10,
    system: str = "glass",
    exclude_seen: bool = False,
) -> dict[str, list[Recommendation]]:
    """The best items for each user, given everything that user did.

    The items of all beams are ranked together by P(item | user), as `glass evaluate` does
    (`glass.evaluation.rank_items`).

    Args:
        run: a trained run.
        users: raw user ids.
        num_items: items a user, at most; fewer if the beams hold fewer.
        system: "glass" or "tiger".
        exclude_seen: leave out items of the history.

    Raises:
        ValueError: an unknown user or system, or a run that is not trained.
    """
    if system not in NEURAL:
        raise ValueError(f"system is {system!r}; it must be one of {', '.join(NEURAL)}")
    if num_items < 1:
        raise ValueError(f"num_items is {num_items}; it must be at least 1")
    rows = _user_rows(run.dataset, users)
    model, table, trie = load_system(run.folder / system)
    if trained_on(run.folder / system) != run.dataset.manifest.get("fingerprint"):
        raise ValueError(
            f"{run.folder / system} was trained on another version of data set "
            f"{run.dataset.name!r}; run `glass train` with this config"
        )
    offsets = run.dataset.user_offsets
    start, end = offsets[rows], offsets[rows + 1]
    samples = Samples(rows.astype(np.int32), start, end, end)
    decoded = decode_samples(
        model, trie, run.dataset, samples, run.config, name=system, progress=False
    )
    catalogue = SidCatalogue(table.codes)
    ranked = rank_items(
        catalogue.lookup(decoded.codes),
        decoded.scores,
        run.dataset,
        samples,
        catalogue,
        prior=run.config.eval.item_prior,
    )
    result = {}
    for number, user in enumerate(users):
        items, scores = ranked.items[number], ranked.scores[number]
        repeat = np.isin(items, run.dataset.items[start[number] : end[number]])
        kept = (items >= 0) & ~(repeat & exclude_seen)
        chosen = np.flatnonzero(kept)[:num_items]
        result[user] = [
            _recommendation(run.dataset, table.codes, rank, items[at], scores[at], repeat[at])
            for rank, at in enumerate(chosen, start=1)
        ]
    return result


def _user_rows(dataset: Dataset, users: Sequence[str]) -> np.ndarray:
    known = {raw: row for row, raw in enumerate(dataset.user_table["raw_user_id"].to_list())}
    if unknown := [user for user in users if user not in known]:
        some = ", ".join(list(known)[:5])
        raise ValueError(
            f"user {unknown[0]!r} is not in data set {dataset.name!r} (known are, for example, "
            f"{some})"
        )
    return np.array([known[user] for user in users], dtype=np.int64)


def _recommendation(
    dataset: Dataset, codes: np.ndarray, rank: int, item: int, score: float, repeat: bool
) -> Recommendation:
    item = int(item)
    return Recommendation(
        rank=rank,
        raw_item_id=str(dataset.item_table["raw_item_id"][item]),
        title=str(dataset.item_table["title"][item]),
        sid=tuple(codes[item].tolist()),
        score=float(score),
        repeat=bool(repeat),
    )
