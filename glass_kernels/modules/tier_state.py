"""SID-Tier for serving: counts of every user, kept current event by event."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from glass_kernels.checks import check_ids, check_offsets, check_tensor
from glass_kernels.jagged import lengths_to_offsets, offsets_to_segments
from glass_kernels.modules.tier_histogram import TierHistogram
from glass_kernels.modules.tier_storage import load_state, save_state
from glass_kernels.sid_tier import sid_tier_update_
from glass_kernels.sid_tier.tiers import chunks

MAX_WINDOW = 1 << 24
"""Counts are float32 while they are recounted, exact up to here."""
_EVENTS_AT_ONCE = 1 << 20


class TierState:
    """SID-Tier counts of B users that follow their events: O(K) an event, exact.

    At any moment `features` are what `sid_tier` gives for the events observed so far, or with a
    window for the newest `window` of each user. Put `SidTier.token` behind it. On the device of
    `tiers`; not safe to call from several threads at once.

    Args:
        tiers: a filled `TierHistogram` or `SidTier`; kept, not copied.
        num_users: B.
        window: W newest events that count. The state then holds them (4 * B * W bytes) and removes
            by itself what falls out. None: everything counts until the caller removes it.

    Raises ValueError for sizes that cannot be.
    """

    def __init__(self, tiers: TierHistogram, num_users: int, *, window: int | None = None) -> None:
        if num_users < 0:
            raise ValueError(f"num_users must not be negative, was {num_users}")
        if window is not None and not 1 <= window <= MAX_WINDOW:
            raise ValueError(f"window must be in [1, {MAX_WINDOW}] or None, was {window}")
        self.tiers = tiers
        self.window = window
        device = tiers.edges.device
        shape = (num_users, tiers.num_codes, tiers.num_tiers)
        self.counts = torch.zeros(shape, dtype=torch.int32, device=device)
        """int32 [B, K, N]"""
        self.events = torch.full((num_users, window or 0), -1, dtype=torch.int32, device=device)
        """int32 [B, W] the items that count, in a ring; -1: none yet."""
        self.seen = torch.zeros(num_users, dtype=torch.int64, device=device)
        """int64 [B] events observed (less those removed)."""
        self._remember()

    def _remember(self) -> None:
        self._version = self.tiers.version
        self.num_items = self.tiers.num_items
        self.digest = self.tiers.tiers_digest()

    @classmethod
    def from_histories(
        cls, tiers: TierHistogram, item_ids: Tensor, offsets: Tensor, *, window: int | None = None
    ) -> TierState:
        """State of B users with the histories item_ids [T] (oldest first), offsets int64 [B+1].

        Raises ValueError for ids out of range and offsets that do not add up.
        """
        check_tensor("item_ids", item_ids, ndim=1, device=tiers.edges.device)
        check_offsets("offsets", offsets, item_ids.shape[0])
        state = cls(tiers, offsets.shape[0] - 1, window=window)
        users = offsets_to_segments(offsets, item_ids.shape[0])
        for part in range(0, item_ids.shape[0], _EVENTS_AT_ONCE):
            both = slice(part, part + _EVENTS_AT_ONCE)
            state.observe(users[both], item_ids[both])
        return state

    # --- events

    @torch.no_grad()
    def observe(self, users: Tensor, item_ids: Tensor) -> None:
        """Adds events, oldest first: users [E] and item_ids [E], int32 or int64.

        A user may occur many times. With a window, what falls out of it is removed.

        Raises ValueError, with nothing changed, for wrong shapes, ids out of range, or tiers that
        are no longer those of the counts (see `recount`).
        """
        self._check_events(users, item_ids)
        table, rows = self.tiers.rows(item_ids)
        touched, whose, number = users.unique(  # type: ignore[no-untyped-call]
            return_inverse=True, return_counts=True
        )
        if self.window is None:
            sid_tier_update_(self.counts, users, rows, table)
            self.seen.index_add_(0, touched, number)
            return
        order = whose.argsort(stable=True)
        rank = torch.empty_like(order)  # of an event among those of its user
        first = number.cumsum(0) - number
        rank[order] = torch.arange(len(order), device=order.device) - first[whose[order]]
        kept = rank >= number[whose] - self.window  # the others fall out within this call
        users, slot = users[kept].to(torch.int64), self.seen[users[kept]] + rank[kept]
        slot %= self.window
        old = self.events[users, slot]
        sid_tier_update_(self.counts, users, rows[kept], table)
        table, rows = self.tiers.rows(old[old >= 0])
        sid_tier_update_(self.counts, users[old >= 0], rows, table, remove=True)
        self.events[users, slot] = item_ids[kept].to(torch.int32)
        self.seen.index_add_(0, touched, number)

    @torch.no_grad()
    def remove(self, users: Tensor, item_ids: Tensor) -> None:
        """Takes events back, where there is no window: users [E] and item_ids [E].

        Raises ValueError, with nothing changed, as `observe` does, for a state with a window, and
        for a removal that would make a count negative.
        """
        if self.window is not None:
            raise ValueError(f"window = {self.window}: the state removes events by itself")
        self._check_events(users, item_ids)
        table, rows = self.tiers.rows(item_ids)
        sid_tier_update_(self.counts, users, rows, table, remove=True)
        self.seen.index_add_(0, users.to(torch.int64), -torch.ones_like(users, dtype=torch.int64))

    def _check_events(self, users: Tensor, item_ids: Tensor) -> None:
        device = self.counts.device
        check_tensor("users", users, ndim=1, device=device)
        check_ids("users", users, 0, self.num_users)
        check_tensor("item_ids", item_ids, shape=users.shape, device=device)
        check_ids("item_ids", item_ids, 0, self.tiers.num_items)
        self._check_tiers()

    def _check_tiers(self) -> None:
        """A catalogue that grew keeps its tiers; other SIDs give other ones."""
        if self.tiers.version == self._version:
            return
        grown = self.tiers.num_items >= self.num_items
        if not grown or self.tiers.tiers_digest(self.num_items) != self.digest:
            remedy = "recount()" if self.window is not None else "from_histories"
            raise ValueError(
                "tiers changed since these counts were made (the SIDs or item vectors are new); "
                f"use TierState.{remedy}"
            )
        self._remember()

    # --- results

    @property
    def num_users(self) -> int:
        """B."""
        return self.seen.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Events of each user that count: int64 [B]."""
        return self.seen if self.window is None else self.seen.clamp(max=self.window)

    def features(self, users: Tensor | None = None) -> Tensor:
        """Fractions float32 [U, K, N] of `users` [U] (None: all), the very numbers of `sid_tier`.

        Raises ValueError for users out of range, or tiers that are no longer those of the counts.
        """
        self._check_tiers()
        counts, lengths = self.counts, self.lengths
        if users is not None:
            check_tensor("users", users, ndim=1, device=counts.device)
            check_ids("users", users, 0, self.num_users)
            counts, lengths = counts[users], lengths[users]
        result = torch.empty(counts.shape, dtype=torch.float32, device=counts.device)
        for part in chunks(len(counts), counts.shape[1] * counts.shape[2]):
            length = lengths[part].clamp(min=1)[:, None, None]
            result[part] = (counts[part].to(torch.float64) / length).to(torch.float32)
        return result

    def grow(self, num_users: int) -> None:
        """Makes room for B = `num_users`; the new users have no events.

        Raises ValueError if there are more already.
        """
        more = num_users - self.num_users
        if more < 0:
            raise ValueError(f"num_users must be at least {self.num_users}, was {num_users}")
        for name, empty in (("counts", 0), ("events", -1), ("seen", 0)):
            held: Tensor = getattr(self, name)
            rows = held.new_full((more, *held.shape[1:]), empty)
            setattr(self, name, torch.cat((held, rows)))

    @torch.no_grad()
    def recount(self) -> None:
        """Counts the events of the window anew: after `rebuild` of the tiers, when SIDs change.

        Raises ValueError without a window, as there are no events to count, and for events that
        the catalogue no longer has.
        """
        if self.window is None:
            raise ValueError("window is None: no events are held; use TierState.from_histories")
        shape = (self.num_users, self.tiers.num_codes, self.tiers.num_tiers)
        counts = self.counts.new_empty(shape)
        for part in chunks(self.num_users, self.window + counts[:1].numel()):
            held = self.events[part] >= 0
            offsets = lengths_to_offsets(held.sum(1))
            counts[part] = self.tiers.histogram(
                self.events[part][held], offsets, normalize=False
            ).to(torch.int32)
        self.counts = counts
        self._remember()

    # --- on disk

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state as safetensors to a temporary name, then renames it.

        Raises ValueError for tiers that are no longer those of the counts.
        """
        self._check_tiers()
        tensors = {"counts": self.counts, "events": self.events, "seen": self.seen}
        save_state(path, tensors, digest=self.digest, num_items=self.num_items)

    @classmethod
    def load(cls, path: str | os.PathLike[str], tiers: TierHistogram) -> TierState:
        """What `save` wrote. With other tiers than then, a window is counted anew.

        Raises FileNotFoundError if there is no such file; ValueError if it is damaged, or if it
        has other tiers and no window.
        """
        tensors, digest, num_items = load_state(path, tiers.num_items)
        counts, events = tensors["counts"], tensors["events"]
        window = events.shape[1] or None
        state = cls(tiers, counts.shape[0], window=window)
        device = state.counts.device
        state.events, state.seen = events.to(device), tensors["seen"].to(device)
        same = num_items <= tiers.num_items and tiers.tiers_digest(num_items) == digest
        if same:
            if counts.shape != state.counts.shape:
                raise ValueError(
                    f"{os.fspath(path)} has counts {list(counts.shape)}, these tiers have "
                    f"{list(state.counts.shape)}; use TierState.from_histories"
                )
            state.counts = counts.to(device)
        elif window is not None:
            state.recount()
        else:
            raise ValueError(
                f"{os.fspath(path)} was counted with other tiers (SIDs, edges or item vectors); "
                "use TierState.from_histories"
            )
        return state
