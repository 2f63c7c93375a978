"""Recommendations from a saved model, for users whose events come in one by one."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from glass.serving.filters import ItemLists, ItemSet, Wanted, union
from glass.serving.folder import load_system
from glass.serving.histories import Histories, Snapshot
from glass.serving.history import Ints, Longs
from glass.serving.items import ItemTable
from glass.serving.search import Recommendation, Searcher, SearchOptions
from glass.serving.state_file import NAME, read_state, write_state
from glass.serving.visits import check_count, times_and_visits
from glass.systems import Model
from glass_kernels import SidTrie

if TYPE_CHECKING:
    from glass.data import Dataset

_NONE = np.zeros(0, np.int32)
_MOST_NODES = 1 << 25
"""Of the filter of one model run: 128 MiB."""


class Recommender:
    """Holds a model and its users' histories; takes events and answers with items.

    An event costs the same however long the history is: it is logged, counted for SID-Tier in
    O(K), and put into its bucket of the hard search, which keeps the newest, all that a search can
    find. A request reads only that, so its time does not grow with the history either. (A model
    with a copy head reads every event of a history: there it grows.)

    Safe to call from several threads: of a call of `observe` a request sees all or nothing, and it
    answers from the state at its beginning while events go on coming in.

    Args:
        model, trie: in eval mode and on one device; `trie` of the model's SIDs and of the items
            that may be recommended. All items of the catalogue may be in histories.
        items: of the same catalogue.
        max_history: newest events of a user that count; older ones are forgotten. None: all.
        batch_size: users of one model run.

    Raises ValueError where these do not fit together.
    """

    def __init__(
        self,
        model: Model,
        trie: SidTrie,
        items: ItemTable,
        *,
        max_history: int | None = None,
        batch_size: int = 128,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.items = items
        self.batch_size = batch_size
        self.searcher = Searcher(model, trie, items)
        self._max_history = max_history
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._histories = Histories(self.searcher.reading.reads, max_history=max_history)

    @classmethod
    def load(
        cls, folder: Path | str, *, max_history: int | None = None, batch_size: int = 128
    ) -> Recommender:
        """From a model's folder as `glass train` writes it, such as `runs/shop/glass`.

        Nothing else is needed. No user is known yet: see `observe`, `observe_dataset` and
        `load_state`.

        Raises:
            ValueError: the folder holds no model, or a file of it is missing or damaged.
        """
        model, _, trie = load_system(folder)
        items = ItemTable.load(Path(folder))
        return cls(model, trie, items, max_history=max_history, batch_size=batch_size)

    # --- events

    @property
    def num_users(self) -> int:
        """Users that have events."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept of all users, without the Python objects around it."""
        with self._lock:
            return self._histories.nbytes

    def observe(
        self, user: str, items: Collection[str], times: int | Sequence[int] | None = None
    ) -> None:
        """Adds events to a user's history, which begins with the first call.

        Args:
            user: any name.
            items: raw item ids, oldest first.
            times: seconds of each event, or one number for all; None: now, one visit. Only a
                copy head and HSTU look at them; for these they must not fall.

        Raises:
            ValueError, with nothing changed: an item that the model does not know, or times that
                do not fit.
        """
        if not isinstance(user, str):
            raise ValueError(f"user is {user!r}; it must be a string")
        dense = self._dense("items", items)
        check_count(times, len(dense))
        if not len(dense):
            return
        with self._lock:
            row = self._rows.get(user)
            timed: tuple[Longs, ...] = ()
            if self._histories.reads.timed:
                last = (None, 0) if row is None else self._histories.last(row)
                timed = times_and_visits(times, len(dense), self.items.settings, last)
            if row is None:
                row = self._rows[user] = self._histories.add_user()
            self._histories.observe(row, dense, *timed)

    def observe_dataset(self, dataset: Dataset, users: Sequence[int] | None = None) -> None:
        """Takes over whole histories of a prepared data set.

        Args:
            dataset: with the items that the model was trained on.
            users: rows of its users; None: all.

        Raises:
            ValueError: other items, or a user that has events already.
        """
        if tuple(dataset.item_table["raw_item_id"].to_list()) != self.items.raw_ids:
            raise ValueError(
                f"data set {dataset.name!r} has other items than the model; use the data set that "
                "the model was trained on"
            )
        names = dataset.user_table["raw_user_id"].to_list()
        with self._lock:
            for number in range(dataset.num_users) if users is None else users:
                name = names[number]
                if name in self._rows:
                    raise ValueError(f"user {name!r} has events already")
                part = slice(*dataset.user_offsets[number : number + 2].tolist())
                timed: tuple[Longs, ...] = ()
                if self._histories.reads.timed:
                    timed = (dataset.times[part], dataset.groups[part].astype(np.int64))
                row = self._rows[name] = self._histories.add_user()
                self._histories.observe(row, dataset.items[part], *timed)

    def _dense(self, name: str, raw: Collection[str]) -> Ints:
        if isinstance(raw, str):
            raise ValueError(f"{name} is {raw!r}; it must be a list of raw item ids")
        rows = self.items.rows
        dense = [rows.get(item, -1) for item in raw]
        if -1 in dense:
            unknown = [repr(item) for item, row in zip(raw, dense, strict=True) if row < 0]
            some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            known = ", ".join(repr(item) for item in islice(rows, 3))
            raise ValueError(
                f"{name} holds {len(unknown)} that the model does not know: {some}; leave them "
                f"out, or train a model on data that have them (it knows {known}, ...)"
            )
        return np.array(dense, np.int32)

    # --- requests

    def recommend(
        self,
        users: Sequence[str],
        n: int = 10,
        *,
        exclude_seen: bool = False,
        allowed: ItemLists | None = None,
        exclude: ItemLists | None = None,
        beam_width: int | None = None,
        max_per_sid1: int | None = None,
        unknown: Literal["cold", "error"] = "cold",
    ) -> list[list[Recommendation]]:
        """The best items for each user, by P(item | user), best first.

        Ranked as `glass evaluate` ranks (`glass.evaluation.rank_items`). A list has n items if the
        filters leave so many: for users whose beams hold fewer, n beams are searched. It is empty
        where nothing is left.

        Args:
            users: names; a name may occur twice.
            n: items a user, at most.
            exclude_seen: leave out items of the user's history.
            allowed: raw item ids that alone may come, or an `item_set` of them; for all users, or
                a mapping with one for each.
            exclude: raw item ids that must not come; likewise, but users may be missing.
            beam_width: beams of the search; None: those of the run.
            max_per_sid1: at most this many beams of one first code, for more diverse lists, which
                may end before n.
            unknown: of users without events. "cold": recommend from an empty history, of which
                the model has learned little: expect what is popular. "error": refuse.

        Returns a list for each of `users`.

        Raises:
            ValueError: a number below 1, an unknown item, a user who is missing from `allowed`,
                or an unknown user with `unknown="error"`.
        """
        width = self.items.settings.beam_width if beam_width is None else beam_width
        options = SearchOptions(n, width, max_per_sid1)
        if unknown not in ("cold", "error"):
            raise ValueError(f"unknown is {unknown!r}; it must be 'cold' or 'error'")
        if isinstance(users, str):
            raise ValueError(f"users is {users!r}; it must be a list of names")
        allows, excludes = self._allowed(allowed, users), self._excluded(exclude, users)
        snapshots = self.snapshots(users, unknown=unknown)
        wanted = [
            Wanted(allow, union(out, self._seen(user) if exclude_seen else _NONE))
            for allow, out, user in zip(allows, excludes, snapshots, strict=True)
        ]
        size = self.batch_size
        if len(users) > 1 and allows[0] is not None:
            size = max(1, min(size, _MOST_NODES // max(allows[0].num_nodes, 1)))
        found: list[list[Recommendation]] = []
        for first in range(0, len(users), size):
            part = slice(first, first + size)
            found += self.searcher(snapshots[part], wanted[part], options)
        return found

    def item_set(self, items: Collection[str]) -> ItemSet:
        """Prepares a list of items that many requests share, such as what is in stock.

        Raises:
            ValueError: an item that the model does not know.
        """
        return self._set("items", items)

    def _allowed(self, given: ItemLists | None, users: Sequence[str]) -> Sequence[ItemSet | None]:
        """The items that each user may get; None: all."""
        if given is None:
            return [None] * len(users)
        if not isinstance(given, Mapping):
            return [self._set("allowed", given)] * len(users)
        if missing := [user for user in users if user not in given]:
            raise ValueError(f"allowed has no list for user {missing[0]!r}; give each user one")
        return [self._set("allowed", given[user]) for user in users]

    def _excluded(self, given: ItemLists | None, users: Sequence[str]) -> Sequence[Ints]:
        """Rising ids of the items that each user must not get."""
        if given is None:
            return [_NONE] * len(users)
        if not isinstance(given, Mapping):
            return [self._set("exclude", given).ids] * len(users)
        return [self._set("exclude", given.get(user, ())).ids for user in users]

    def _set(self, name: str, given: Collection[str] | ItemSet) -> ItemSet:
        if isinstance(given, ItemSet):
            return given
        # Without items that cannot come anyway: how many are left tells when a list is whole.
        ids = self.searcher.candidates(np.unique(self._dense(name, given)))
        return ItemSet(ids, self.searcher.trie)

    def _seen(self, user: Snapshot) -> Ints:
        return self.searcher.candidates(user.counted[0])

    def snapshots(
        self, users: Sequence[str], *, unknown: Literal["cold", "error"] = "cold"
    ) -> list[Snapshot]:
        """What a request of now reads of each user, all at one moment."""
        with self._lock:
            rows = {user: self._rows.get(user) for user in users}
            if unknown == "error" and (lost := [user for user in rows if rows[user] is None]):
                raise ValueError(
                    f"user {lost[0]!r} has no events; observe them first, or take unknown='cold' "
                    "to recommend from an empty history"
                )
            histories = self._histories
            found = {
                user: histories.nobody() if row is None else histories.snapshot(row)
                for user, row in rows.items()
            }
        return [found[user] for user in users]

    # --- on disk

    def save_state(self, folder: Path | str) -> Path:
        """Writes all histories as one file into `folder`, beside the model or elsewhere.

        It is written under a temporary name and renamed: whoever is killed leaves the old one.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            users = list(self._rows)
            events = self._histories.events(list(self._rows.values()))
        path = Path(folder) / NAME
        write_state(path, users, events, self.items.digest)
        return path

    def load_state(self, folder: Path | str) -> None:
        """Takes the histories that `save_state` wrote in place of all that it has.

        A model that was trained anew takes them too, as long as its items are the same.

        Raises:
            FileNotFoundError: there are none.
            ValueError, with nothing changed: the file is damaged, of another version or of other
                items, or lacks the times that the model reads.
        """
        histories = Histories(self.searcher.reading.reads, max_history=self._max_history)
        path = Path(folder) / NAME
        rows = read_state(path, histories, len(self.items), self.items.digest)
        with self._lock:
            self._rows, self._histories = rows, histories
