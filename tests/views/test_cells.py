"""Bytes are copied to their places as Python's slices would do it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iptrec.views.cells import copy

SOURCE = bytes(range(1, 101))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(0, 3)), min_size=1))
def test_copies_of_any_sizes_land_between_zeros(pieces: list[tuple[int, int, int]]) -> None:
    """Also of no bytes, and with gaps between them."""
    expected, at = b"", []
    for start, size, gap in pieces:
        at.append(len(expected))
        expected += SOURCE[start : start + size] + bytes(gap)
    buffer = np.zeros(len(expected), np.uint8)
    start, size, _ = np.array(pieces).T
    copy(buffer, np.array(at), np.frombuffer(SOURCE, np.uint8), start, size)
    assert buffer.tobytes() == expected
