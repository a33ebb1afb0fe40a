"""Errors that come late, and the packets that each may be about."""

from __future__ import annotations

import numpy as np
import pytest

from iptrec.packets.neighbours import given_up

SURE, PERHAPS = True, False
# Packets in small letters, errors about what reads so in capitals; "." is a second, "_" six.
CASES = {
    "each its own": ("abc...ABC", {0: (6, SURE), 1: (7, SURE), 2: (8, SURE)}),
    "in another order": ("ab...BA", {0: (6, SURE), 1: (5, SURE)}),
    "equal ones": ("aaa...AAA", {0: (6, SURE), 1: (7, SURE), 2: (8, SURE)}),
    "fewer errors": ("aaa...AA", {0: (6, PERHAPS), 1: (6, PERHAPS), 2: (6, PERHAPS)}),
    "fewer errors, and one behind": ("aa...Aa", {0: (5, PERHAPS), 1: (5, PERHAPS)}),
    "more errors": ("a...AA", {0: (4, PERHAPS)}),
    "an error before": ("A.a", {}),
    "as many, but one before": ("A.aaA", {2: (4, PERHAPS), 3: (4, PERHAPS)}),
    "another one": ("b...A", {}),
    "long ago": ("a_A", {}),
    "once more": ("aa...A_a...A", {0: (5, PERHAPS), 1: (5, PERHAPS), 7: (11, SURE)}),
    "nothing": ("", {}),
    "very many": ("a" * 65 + "A", {}),
    "not so many": ("a" * 64 + "A", dict.fromkeys(range(64), (64, PERHAPS))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_who_is_given_up(case):
    told, expected = CASES[case]
    time_ns, passed = [], 0
    for one in told:
        passed += {".": 1_000_000_000, "_": 6_000_000_000}.get(one, 1000)
        time_ns.append(passed)
    key = np.array([ord(one.lower()) for one in told], np.uint64)
    packet, error = (
        np.array([test(one) for one in told], np.bool_) for test in (str.islower, str.isupper)
    )
    found = given_up(key, np.array(time_ns, np.int64), packet, error)
    assert {one: (its, sure) for one, its, sure in np.stack(found, axis=1).tolist()} == expected


def test_what_has_no_key_is_nothing():
    every = np.array([True, False])
    found = given_up(np.zeros(2, np.uint64), np.arange(2), every, ~every)
    assert len(found.packet) == 0
