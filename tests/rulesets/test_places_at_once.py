"""Events are given their places once for each combination of what tells them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iptrec.rulesets import resolver

FEW = st.integers(0, 9)
MANY = st.integers(0, 2**62)


@given(st.lists(FEW | st.sampled_from([resolver._MOST_CODES - 1]), max_size=40) | st.lists(MANY))
def test_combinations_are_counted_as_they_would_be_sorted(codes):
    """The first event of each, in the order of their numbers, whether they are small or not."""
    numbers = np.array(codes, np.int64)
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    found = resolver._distinct(numbers)
    assert [one.tolist() for one in found] == [first.tolist(), which.tolist()]
