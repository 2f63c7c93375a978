"""Recommendations for named users from their whole history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from glass.data import Dataset, Samples
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
    """Log-probability of the item's SID."""
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

    SIDs are ranked by log-probability; inside a SID the user's own most frequent item comes
    first, then the most popular.

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
    values, item_offsets = trie.items(torch.from_numpy(decoded.codes).to(trie.device))
    items, ends = values.cpu().numpy(), item_offsets.cpu().numpy()
    width = decoded.codes.shape[1]
    result = {}
    for number, user in enumerate(users):
        history = run.dataset.items[start[number] : end[number]]
        bounds = ends[number * width : (number + 1) * width + 1]
        result[user] = _rank(
            run.dataset, table.codes, items, bounds, decoded.scores[number], history
        )
        if exclude_seen:
            result[user] = [item for item in result[user] if not item.repeat]
        result[user] = [
            Recommendation(rank, r.raw_item_id, r.title, r.sid, r.score, r.repeat)
            for rank, r in enumerate(result[user][:num_items], start=1)
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


def _rank(
    dataset: Dataset,
    codes: np.ndarray,
    items: np.ndarray,
    bounds: np.ndarray,
    scores: np.ndarray,
    history: np.ndarray,
) -> list[Recommendation]:
    """Items of one user's beams: by beam, then own count, then popularity."""
    beam = np.repeat(np.arange(len(scores)), np.diff(bounds))
    chosen = items[bounds[0] : bounds[-1]]
    own = np.bincount(history, minlength=dataset.num_items)[chosen]
    order = np.lexsort((chosen, -dataset.train_counts[chosen], -own, beam))
    table = dataset.item_table
    return [
        Recommendation(
            rank=0,
            raw_item_id=str(table["raw_item_id"][item]),
            title=str(table["title"][item]),
            sid=tuple(codes[item].tolist()),
            score=float(scores[beam[place]]),
            repeat=bool(own[place]),
        )
        for place, item in zip(order, chosen[order].tolist(), strict=True)
    ]
