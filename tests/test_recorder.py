"""The recorder's own bookkeeping, offline."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.errors import UsageError
from iptrec.kernel.nft.watch import NftState
from iptrec.recorder.session import Options, _Recording


def recording(**options):
    options = Options(output=Path("t.db"), bytecodes={}, **options)
    return _Recording(options, lambda _: None, lambda _: None, None, -1)


def note(one, changes):
    """Changes of nf_tables: (when the ruleset was last seen unchanged, when one was received)."""
    for unchanged, received in changes:
        one._unchanged_ns = unchanged
        one._note_change(received)


# A few of them with each time that the ruleset was seen unchanged, times that never go back.
CHANGES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=20).map(
    lambda steps: [
        (sum(a for a, _ in steps[: at + 1]) * 10, sum(a * 10 + b for a, b in steps[: at + 1]))
        for at in range(len(steps))
    ]
)


@given(CHANGES, st.integers(0, 100), st.integers(0, 100))
def test_changes_that_are_taken_together_say_the_same(changes, after, lasted):
    """When a state of nf_tables' ruleset began is told as if each change had been kept."""
    one = recording()
    note(one, changes)
    state = NftState(after, after + lasted, [])
    since = [old for old, new in changes if after < new and old <= state.time_ns]
    assert one._changed_after(state) == max(after, min(since, default=after))


def test_changes_that_nobody_lists_have_an_end():
    """A ruleset that changes for days while nft is missing, or one that comes in 100,000 parts."""
    one = recording()
    note(one, [(number, number + 1) for number in range(100_000)])
    assert len(one._changes) <= 1000
    # Never later than it was: the state before may have held that long, and not longer.
    assert one._changed_after(NftState(99_000, 100_001, [])) <= 99_001
    note(one, [(200_000, 200_000 + number) for number in range(100_000)])
    assert len(one._changes) <= 1000


@pytest.mark.parametrize(
    "name",
    [
        "eth0+ -j ACCEPT\n-A OUTPUT+",
        "a b+",
        'a"+',
        "a\\+",
        "/+",
        "sixteen-letters-+",
        "nope",
        "lo\n",
    ],
)
def test_interfaces_that_there_cannot_be(name):
    """A name goes into the text that iptables-restore reads: it is a name, and nothing else."""
    one = recording(interfaces=(name,))
    with pytest.raises(UsageError, match="no interface"):
        one._check_interfaces(["lo"])


@pytest.mark.parametrize("name", ["lo", "eth+", "+", "br-0.1+"])
def test_interfaces_that_there_may_be(name):
    """One that is there, or a beginning of names."""
    one = recording(interfaces=(name,))
    one._check_interfaces(["lo"])
