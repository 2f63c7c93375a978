"""Semantic IDs of the catalogue as one dense index."""

from __future__ import annotations

import numpy as np

from glass.evaluation.arrays import AnyIntArray, BoolArray, Int32Array, Int64Array


class SidCatalogue:
    """Items of a semantic ID and back.

    SIDs are numbered in lexicographic order of their codes, so the numbering depends on the set of
    codes only. Items that may not be recommended have no number, and neither have SIDs of such
    items alone: whatever ranks SIDs or items of a catalogue cannot rank them.

    Args:
        codes: integer [V, L], the SID of each item; several items may share one.
        candidates: bool [V], the C items that may be recommended; None: all.

    Attributes:
        codes: int32 [V, L].
        candidates: bool [V].
        unique_codes: int32 [U, L], those of candidates, lexicographically sorted.
        sid_of_item: int32 [V], row of `unique_codes`; -1: the item is no candidate.
        sizes: int32 [U], candidates of each SID.
        item_ids: int32 [C], candidates SID by SID, rising within a SID.
        item_offsets: int64 [U+1], where the candidates of a SID start in `item_ids`.

    Raises:
        ValueError: `codes` is not a non-empty integer matrix, or holds a negative code;
            `candidates` is not a bool array [V] with at least one item.
    """

    def __init__(self, codes: AnyIntArray, candidates: BoolArray | None = None) -> None:
        codes = np.asarray(codes)
        if codes.ndim != 2 or 0 in codes.shape or not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(
                f"codes must be an integer array [V, L] with at least one item and level, "
                f"got {codes.dtype} {list(codes.shape)}"
            )
        if codes.min() < 0:
            item = int(np.argmax((codes < 0).any(axis=1)))
            raise ValueError(
                f"codes of item {item} are {codes[item].tolist()}; "
                "every item needs a SID with codes >= 0"
            )
        if candidates is None:
            candidates = np.ones(len(codes), dtype=bool)
        if candidates.dtype != np.bool_ or candidates.shape != codes.shape[:1]:
            raise ValueError(
                f"candidates must be bool [{len(codes)}], an entry an item, "
                f"got {candidates.dtype} {list(candidates.shape)}"
            )
        if not candidates.any():
            raise ValueError("candidates holds no item; a catalogue needs at least one")
        self.codes: Int32Array = codes.astype(np.int32)
        self.candidates: BoolArray = candidates
        chosen = np.flatnonzero(candidates)
        own = self.codes[chosen]
        # One sorted key table a level: prefix number * radix + code. Numbering prefixes level by
        # level cannot overflow, whatever the code sizes and the number of levels.
        self._levels: list[tuple[Int64Array, int]] = []
        prefix: Int64Array = np.zeros(len(own), np.int64)
        for level in range(own.shape[1]):
            column = own[:, level].astype(np.int64)
            radix = int(column.max()) + 1
            keys, prefix = np.unique(prefix * radix + column, return_inverse=True)
            self._levels.append((keys, radix))
        self.sid_of_item: Int32Array = np.full(len(codes), -1, np.int32)
        self.sid_of_item[chosen] = prefix
        _, first_item, sizes = np.unique(prefix, return_index=True, return_counts=True)
        self.unique_codes: Int32Array = own[first_item]
        self.sizes: Int32Array = sizes.astype(np.int32)
        self.item_ids: Int32Array = chosen[np.argsort(prefix, kind="stable")].astype(np.int32)
        self.item_offsets: Int64Array = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def num_items(self) -> int:
        """V, candidates or not."""
        return len(self.codes)

    @property
    def num_levels(self) -> int:
        """L."""
        return int(self.codes.shape[1])

    @property
    def num_sids(self) -> int:
        """U, the number of distinct SIDs of candidates."""
        return len(self.unique_codes)

    def lookup(self, codes: AnyIntArray) -> Int32Array:
        """SID index of each row of codes.

        Args:
            codes: integer [..., L]; any numbers.

        Returns:
            int32 [...], -1 where no candidate has such a SID.

        Raises:
            ValueError: the last dimension is not L.
        """
        codes = np.asarray(codes)
        if codes.ndim < 1 or codes.shape[-1] != self.num_levels:
            raise ValueError(
                f"codes must be [..., {self.num_levels}] (the catalogue's levels), "
                f"got {list(codes.shape)}"
            )
        prefix = np.zeros(codes.shape[:-1], np.int64)
        known = np.ones(codes.shape[:-1], bool)
        for level, (keys, radix) in enumerate(self._levels):
            code = codes[..., level].astype(np.int64)
            known &= (code >= 0) & (code < radix)
            key = prefix * radix + np.clip(code, 0, radix - 1)
            prefix = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            known &= keys[prefix] == key
        return np.where(known, prefix, -1).astype(np.int32)

    def items_of(self, sid: int) -> Int32Array:
        """int32 [m] candidates of SID `sid`, in item order."""
        return self.item_ids[self.item_offsets[sid] : self.item_offsets[sid + 1]]
