"""Which number of a ruleset belongs before the events that were just received."""

from __future__ import annotations

import struct

import pytest

from iptrec.kernel import netlink
from iptrec.kernel.nft import nftrace

NEWGEN = 0x0A0F


def answer(number):
    body = netlink.netfilter_body(0, [(1, struct.pack("!I", number))])
    return netlink.message(NEWGEN, 0, body)


# The numbers among events, what the kernel answers after them, and the number that belongs before them.
CASES = {
    "nothing changes": [([], 7, 7), ([], 7, None), ([], 7, None)],
    "a number comes with events": [([], 7, 7), ([8], 8, 7), ([], 8, None), ([9, 10], 10, 8)],
    # Some of the events may have met the ruleset 8, whose number comes a moment later.
    "it was not told yet": [([], 7, 7), ([], 7, None), ([], 8, 7), ([8], 8, None), ([9], 9, 8)],
    "the next one is in force already": [([], 7, 7), ([8], 9, 7), ([9], 9, None), ([10], 10, 9)],
    "the first events": [([8], 8, 7), ([], 8, None)],
    "no answer": [([], None, 7), ([8], None, None), ([9], 9, None), ([10], 10, 9)],
}


@pytest.mark.parametrize("case", CASES)
def test_the_number_before_events(case, monkeypatch):
    """The last one that the kernel confirmed, before the first events of which that is not certain."""
    answers = [7, *(answer for _, answer, _ in CASES[case])]
    monkeypatch.setattr(
        nftrace._Generation,
        "_ask",
        lambda _: b"" if (told := answers.pop(0)) is None else answer(told),
    )
    generation = nftrace._Generation()
    for told, _, expected in CASES[case]:
        assert generation.before(told) == (b"" if expected is None else answer(expected))
    generation.close()
