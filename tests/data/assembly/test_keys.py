from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glass.data.assembly.keys import keys_of

texts = st.text(st.characters(codec="utf-8"), max_size=40)
M = 2**64


def mixed(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % M
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % M
    return value ^ (value >> 31)


def slow_key(text: str, seed: int) -> int:
    content = text.encode()
    key = mixed((len(content) + seed * 0xA0761D6478BD642F + 0x9E3779B97F4A7C15) % M)
    for place in range(0, len(content), 8):
        word = int.from_bytes(content[place : place + 8], "little")
        key = mixed((key ^ word) * 0xD1342543DE82EF95 % M)
    return key


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, max_size=20), st.integers(0, 5))
def test_keys_are_those_of_one_text_at_a_time(ids: list[str], seed: int) -> None:
    found = keys_of(pl.Series(ids, dtype=pl.String), seed)
    assert found.dtype == np.uint64
    assert found.tolist() == [slow_key(text, seed) for text in ids]


def test_keys_do_not_depend_on_the_machine() -> None:
    ids = pl.Series(["", "1", "user 42", "8-bytes!", "of nine b", "日本"])
    assert keys_of(ids).tolist() == KNOWN


def test_slices_and_chunks() -> None:
    ids = pl.concat([pl.Series(["a", "bc", "def"]), pl.Series(["ghij" * 5, "k"])])
    whole = keys_of(ids)
    assert keys_of(ids[1:4]).tolist() == whole[1:4].tolist()


def test_different_ids_have_different_keys() -> None:
    ids = pl.Series([f"{k}" for k in range(200_000)] + [f"user_{k:09}" for k in range(200_000)])
    keys = keys_of(ids)
    assert len(np.unique(keys)) == len(ids)
    share = np.bincount((keys >> np.uint64(56)).astype(np.int64), minlength=256) / len(ids)
    assert share.min() == pytest.approx(1 / 256, rel=0.1)
    assert share.max() == pytest.approx(1 / 256, rel=0.1)


KNOWN = [
    16294208416658607535,
    7588495455757755498,
    12379981026934342545,
    9178284173361650248,
    7452666528513849456,
    8253387987759783070,
]
