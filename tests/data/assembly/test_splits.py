from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from glass.data.order import nth_smallest

ints = st.one_of(st.integers(-5, 5), st.integers(-(10**6), 10**6), st.integers(-(2**62), 2**62 - 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(ints, max_size=8), min_size=1, max_size=6), st.data())
def test_nth_smallest_is_that_of_the_sorted(parts: list[list[int]], data: st.DataObject) -> None:
    ordered = sorted(value for part in parts for value in part)
    if not ordered:
        return
    below = data.draw(st.sampled_from([None, *ordered]))
    left = [value for value in ordered if below is None or value < below]
    if not left:
        return
    n = data.draw(st.integers(0, len(left) - 1))
    arrays = [np.array(part, dtype=np.int64) for part in parts]
    assert nth_smallest(lambda: iter(arrays), n, below) == left[n]
