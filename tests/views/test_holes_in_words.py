"""How long nothing was traced, whichever families it was of."""

from __future__ import annotations

import pytest

from iptrec.recording.rows import Loss
from iptrec.views.losses import how_many

S = 1_000_000_000


@pytest.mark.parametrize(
    ("holes", "said"),
    [
        ([(0, 2)], "2.0 s"),
        ([(0, 2), (0, 2)], "2.0 s"),  # IPv4 and IPv6 at one time
        ([(1, 4), (0, 2)], "4.0 s"),
        ([(0, 10), (2, 3), (4, 5)], "10.0 s"),
        ([(0, 1), (5, 7)], "3.0 s"),
    ],
)
def test_seconds(holes, said):
    losses = [Loss(1, first * S, last * S, None, "rules-gone") for first, last in holes]
    assert how_many(losses) == f"not traced for {said}"
