"""How long nothing was traced, whichever families it was of."""

from __future__ import annotations

import pytest

from iptrec.recording.rows import Loss
from iptrec.views.losses import how_many
from iptrec.views.text import holes

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


def test_a_time_of_both_families_is_one_line():
    """Two lines that read the same would say that there were two."""
    gone = [Loss(stream, S, 2 * S, None, "rules-gone") for stream in (1, 2)]
    said = holes([*gone, Loss(1, 5 * S, 6 * S, None, "rules-gone")], str)
    assert [line.split(":")[0] for line in said] == [
        f"-- not traced from {S} to {2 * S}",
        f"-- not traced from {5 * S} to {6 * S}",
    ]
