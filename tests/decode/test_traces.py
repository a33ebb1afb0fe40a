"""The last chosen event of the same id, as a loop over all of them finds it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode.traces import Traces


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40))
def test_latest(events):
    """However ids come, one after the other or interleaved."""
    trace = np.array([one for one, _ in events], np.int64)
    chosen = np.array([one for _, one in events], np.bool_)
    last, expected = {}, []
    for at, (one, wanted) in enumerate(events):
        if wanted:
            last[one] = at
        expected.append(last.get(one, -1))
    assert Traces(trace).latest(chosen).tolist() == expected
