"""SidCatalogue against plain dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glass.evaluation import SidCatalogue


def test_by_hand():
    catalogue = SidCatalogue(np.array([[1, 0], [0, 5], [1, 0], [0, 2]]))
    assert catalogue.unique_codes.tolist() == [[0, 2], [0, 5], [1, 0]]
    assert catalogue.sid_of_item.tolist() == [2, 1, 2, 0]
    assert catalogue.sizes.tolist() == [1, 1, 2]
    assert (catalogue.num_items, catalogue.num_levels, catalogue.num_sids) == (4, 2, 3)
    assert catalogue.items_of(2).tolist() == [0, 2]
    wanted = np.array([[[1, 0], [1, 5]], [[0, 5], [0, -1]], [[9, 0], [0, 3]]])
    assert catalogue.lookup(wanted).tolist() == [[2, -1], [1, -1], [-1, -1]]
    assert catalogue.unique_codes.dtype == catalogue.lookup(wanted).dtype == np.int32


def test_codes_do_not_carry_over_into_the_next_prefix():
    # With radix 2 at the last level a naive key of (0, 2) equals that of (1, 0).
    catalogue = SidCatalogue(np.array([[0, 0], [0, 1], [1, 0]]))
    assert catalogue.lookup(np.array([0, 2])) == -1
    assert catalogue.lookup(np.array([0, -1])) == -1
    assert catalogue.lookup(np.array([1, -1])) == -1


def test_many_large_levels_do_not_overflow():
    codes = np.random.default_rng(0).integers(0, 2**31 - 1, size=(200, 6), dtype=np.int32)
    catalogue = SidCatalogue(codes)
    assert catalogue.num_sids == 200
    assert np.array_equal(catalogue.unique_codes[catalogue.sid_of_item], codes)
    assert np.array_equal(catalogue.lookup(codes), catalogue.sid_of_item)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 4).flatmap(
        lambda levels: st.tuples(
            arrays(
                np.int32, st.tuples(st.integers(1, 12), st.just(levels)), elements=st.integers(0, 3)
            ),
            arrays(
                np.int64,
                st.tuples(st.integers(0, 12), st.just(levels)),
                elements=st.integers(-2, 5),
            ),
        )
    )
)
def test_against_a_dictionary(case):
    codes, wanted = case
    catalogue = SidCatalogue(codes)
    index = {sid: i for i, sid in enumerate(sorted(set(map(tuple, codes.tolist()))))}
    assert list(map(tuple, catalogue.unique_codes.tolist())) == list(index)
    assert catalogue.sid_of_item.tolist() == [index[tuple(row)] for row in codes.tolist()]
    assert catalogue.sizes.sum() == len(codes)
    expected = [index.get(tuple(row), -1) for row in wanted.tolist()]
    assert catalogue.lookup(wanted).tolist() == expected


@pytest.mark.parametrize(
    "codes", [np.zeros(3, int), np.zeros((0, 3), int), np.zeros((2, 2)), np.array([[0], [-1]])]
)
def test_refuses_bad_codes(codes):
    with pytest.raises(ValueError, match="codes"):
        SidCatalogue(codes)


def test_refuses_lookup_of_other_levels():
    with pytest.raises(ValueError, match="levels"):
        SidCatalogue(np.array([[0, 1]])).lookup(np.zeros((2, 3), int))


def test_items_lie_sid_by_sid():
    catalogue = SidCatalogue(np.array([[1, 1], [0, 2], [1, 1], [0, 2], [0, 0], [0, 2]]))
    assert catalogue.item_ids.tolist() == [4, 1, 3, 5, 0, 2]
    assert catalogue.item_offsets.tolist() == [0, 1, 4, 6]
    assert [catalogue.items_of(sid).tolist() for sid in range(3)] == [[4], [1, 3, 5], [0, 2]]
