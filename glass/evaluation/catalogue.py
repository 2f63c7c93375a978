"""Semantic IDs of the catalogue as one dense index."""

from __future__ import annotations

import numpy as np

from glass.evaluation.arrays import AnyIntArray, Int32Array, Int64Array


class SidCatalogue:
    """Items of a semantic ID and back.

    SIDs are numbered in lexicographic order of their codes, so the numbering depends on the set of
    codes only.

    Args:
        codes: integer [V, L], the SID of each item; several items may share one.

    Attributes:
        codes: int32 [V, L].
        unique_codes: int32 [U, L], lexicographically sorted.
        sid_of_item: int32 [V], row of `unique_codes`.
        sizes: int32 [U], items of each SID.
        item_ids: int32 [V], items SID by SID, rising within a SID.
        item_offsets: int64 [U+1], where the items of a SID start in `item_ids`.

    Raises:
        ValueError: `codes` is not a non-empty integer matrix, or holds a negative code.
    """

    def __init__(self, codes: AnyIntArray) -> None:
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
        self.codes: Int32Array = codes.astype(np.int32)
        # One sorted key table a level: prefix number * radix + code. Numbering prefixes level by
        # level cannot overflow, whatever the code sizes and the number of levels.
        self._levels: list[tuple[Int64Array, int]] = []
        prefix: Int64Array = np.zeros(len(codes), np.int64)
        for level in range(codes.shape[1]):
            column = codes[:, level].astype(np.int64)
            radix = int(column.max()) + 1
            keys, prefix = np.unique(prefix * radix + column, return_inverse=True)
            self._levels.append((keys, radix))
        self.sid_of_item: Int32Array = prefix.astype(np.int32)
        _, first_item, sizes = np.unique(prefix, return_index=True, return_counts=True)
        self.unique_codes: Int32Array = self.codes[first_item]
        self.sizes: Int32Array = sizes.astype(np.int32)
        self.item_ids: Int32Array = np.argsort(prefix, kind="stable").astype(np.int32)
        self.item_offsets: Int64Array = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.codes)

    @property
    def num_levels(self) -> int:
        """L."""
        return int(self.codes.shape[1])

    @property
    def num_sids(self) -> int:
        """U, the number of distinct SIDs."""
        return len(self.unique_codes)

    def lookup(self, codes: AnyIntArray) -> Int32Array:
        """SID index of each row of codes.

        Args:
            codes: integer [..., L]; any numbers.

        Returns:
            int32 [...], -1 where the catalogue has no such SID.

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
        """int32 [m] items of SID `sid`, in item order."""
        return self.item_ids[self.item_offsets[sid] : self.item_offsets[sid + 1]]
