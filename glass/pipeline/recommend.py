"""Recommendations for named users from their whole history."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from glass.data import Dataset
from glass.pipeline.neural import make_trie
from glass.serving import Recommendation, Recommender
from glass.serving.folder import load_system, trained_candidates, trained_on
from glass.serving.items import ItemTable
from glass.systems import trained_system

if TYPE_CHECKING:
    from glass.pipeline.run import Run


def recommend(
    run: Run,
    users: Sequence[str],
    *,
    num_items: int = 10,
    system: str | None = None,
    exclude_seen: bool = False,
    allowed: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
    max_per_sid1: int | None = None,
) -> dict[str, list[Recommendation]]:
    """The best items for each user, of the run's candidates, given everything that user did.

    See `glass.Recommender.recommend`, which does it.

    Args:
        run: a trained run.
        users: raw user ids.
        num_items: items a user, at most.
        system: a trained one; None: GLASS, or the last one of the run where that is not of it.
        exclude_seen: leave out items of the history.
        allowed: raw item ids that alone may come.
        exclude: raw item ids that must not come.
        max_per_sid1: at most this many beams of one first code.

    Raises:
        ValueError: an unknown user, item or system, or a run that is not trained.
    """
    system = trained_system(run.default_system if system is None else system).name
    if num_items < 1:
        raise ValueError(f"num_items is {num_items}; it must be at least 1")
    rows = _user_rows(run.dataset, users)
    model, table, trie = load_system(run.folder / system)
    if trained_on(run.folder / system) != run.dataset.manifest.get("fingerprint"):
        raise ValueError(
            f"{run.folder / system} was trained on another version of data set "
            f"{run.dataset.name!r}; run `glass train` with this config"
        )
    # What the config says now: its ranking may have changed since the training.
    items = ItemTable.of(run.dataset, run.config)
    if trained_candidates(run.folder / system) != run.config.eval.candidates:
        trie = make_trie(table, run.candidates).to(trie.device)
    recommender = Recommender(model, trie, items, batch_size=run.config.eval.batch_size)
    recommender.observe_dataset(run.dataset, list(dict.fromkeys(rows)))
    found = recommender.recommend(
        users,
        num_items,
        exclude_seen=exclude_seen,
        allowed=allowed,
        exclude=exclude,
        max_per_sid1=max_per_sid1,
        unknown="error",
    )
    return dict(zip(users, found, strict=True))


def _user_rows(dataset: Dataset, users: Sequence[str]) -> list[int]:
    known = {raw: row for row, raw in enumerate(dataset.user_table["raw_user_id"].to_list())}
    if unknown := [user for user in users if user not in known]:
        some = ", ".join(list(known)[:5])
        raise ValueError(
            f"user {unknown[0]!r} is not in data set {dataset.name!r} (known are, for example, "
            f"{some})"
        )
    return [known[user] for user in users]
