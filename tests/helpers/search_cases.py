"""Hard search in plain Python, and random cases of it, for the tests of every backend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels.jagged import lengths_to_offsets


def buckets_by_hand(histories: list[list[int]], num_codes: int) -> list[list[list[int]]]:
    """Positions of each (user, code), oldest first."""
    buckets, position = [], 0
    for history in histories:
        of_user: list[list[int]] = [[] for _ in range(num_codes)]
        for code in history:
            of_user[code].append(position)
            position += 1
        buckets.append(of_user)
    return buckets


def search_by_hand(
    of_user: list[list[int]], code: int, most: int, neighbours: list[int], least: int
) -> list[int]:
    if code < 0:
        return []
    found = of_user[code][::-1][:most]
    seen = {code}
    for neighbour in neighbours:
        if neighbour < 0 or neighbour in seen:
            continue
        seen.add(neighbour)
        for position in reversed(of_user[neighbour]):
            if len(found) >= min(least, most):
                return found
            found.append(position)
    return found


def jagged(histories: list[list[int]], dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    flat = [code for history in histories for code in history]
    lengths = torch.tensor([len(history) for history in histories], dtype=torch.int64)
    return torch.tensor(flat, dtype=dtype), lengths_to_offsets(lengths)


@dataclass(frozen=True)
class Case:
    """A batch of histories, and what is asked of it."""

    num_codes: int
    histories: list[list[int]]
    queries: list[list[int]]
    """[B][S]; as long in every row."""
    neighbours: list[list[int]]
    """[K][n]"""
    most: int
    least: int
    dtype: torch.dtype

    def history(self) -> tuple[Tensor, Tensor]:
        return jagged(self.histories, self.dtype)

    def search(self) -> dict[str, object]:
        """Arguments of `hard_search` after the index."""
        queries = torch.tensor(self.queries, dtype=self.dtype)
        neighbours = torch.tensor(self.neighbours, dtype=self.dtype)
        return {
            "query_sid1": queries.reshape(len(self.histories), self._width()),
            "max_items": self.most,
            "neighbours": neighbours.reshape(self.num_codes, len(self.neighbours[0])),
            "min_items": self.least,
        }

    def _width(self) -> int:
        return len(self.queries[0]) if self.queries else 2

    def wanted_order(self) -> list[int]:
        buckets = buckets_by_hand(self.histories, self.num_codes)
        return [p for user in buckets for bucket in user for p in bucket]

    def wanted_starts(self) -> list[list[int]]:
        rows, at = [], 0
        for user in buckets_by_hand(self.histories, self.num_codes):
            row = [at]
            for bucket in user:
                at += len(bucket)
                row.append(at)
            rows.append(row)
        return rows

    def wanted(self) -> list[list[list[int]]]:
        """What each query of each user finds."""
        found = []
        buckets = buckets_by_hand(self.histories, self.num_codes)
        for of_user, queries in zip(buckets, self.queries, strict=True):
            near = [self.neighbours[max(code, 0)] for code in queries]
            found.append(
                [
                    search_by_hand(of_user, code, self.most, row, self.least)
                    for code, row in zip(queries, near, strict=True)
                ]
            )
        return found

    def assert_found(self, positions: Tensor, lengths: Tensor) -> None:
        wanted = self.wanted()
        assert positions.dtype == lengths.dtype == torch.int32
        assert positions.shape == (len(self.histories), self._width(), self.most)
        assert lengths.tolist() == [[len(found) for found in user] for user in wanted]
        padded = [[found + [-1] * (self.most - len(found)) for found in user] for user in wanted]
        assert positions.tolist() == padded


@st.composite
def cases(draw: st.DrawFn, longest: int = 14, most_codes: int = 6) -> Case:
    """Random ragged histories; codes repeat, are negative or absent, anywhere they may be."""
    num_codes = draw(st.integers(1, most_codes))
    code = st.integers(0, num_codes - 1)
    wrong_too = st.integers(-2, num_codes - 1)
    histories = draw(st.lists(st.lists(code, max_size=longest), max_size=5))
    width, near = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    query = st.lists(wrong_too, min_size=width, max_size=width)
    neighbour = st.lists(wrong_too, min_size=near, max_size=near)
    return Case(
        num_codes=num_codes,
        histories=histories,
        queries=[draw(query) for _ in histories],
        neighbours=[draw(neighbour) for _ in range(num_codes)],
        most=draw(st.integers(1, 9)),
        least=draw(st.integers(0, 11)),
        dtype=draw(st.sampled_from([torch.int32, torch.int64])),
    )
