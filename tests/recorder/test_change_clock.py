"""When a state of nf_tables' ruleset began, by what the kernel told of changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iptrec.recorder.nft import ChangeClock


def noted(changes):
    """A clock that met changes: (when the ruleset was last seen unchanged, when one was received)."""
    clock = ChangeClock()
    note(clock, changes)
    return clock


def note(clock, changes):
    for unchanged, received in changes:
        clock.unchanged(unchanged)
        clock.changed(received)


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
    seen = after + lasted
    since = [old for old, new in changes if after < new and old <= seen]
    assert noted(changes).began_after(after, seen) == max(after, min(since, default=after))


def test_changes_that_nobody_lists_have_an_end():
    """A ruleset that changes for days while nft is missing, or one that comes in 100,000 parts."""
    clock = noted([(number, number + 1) for number in range(100_000)])
    assert len(clock._changes) <= 1000
    # Never later than it was: the state before may have held that long, and not longer.
    assert clock.began_after(99_000, 100_001) <= 99_001
    note(clock, [(200_000, 200_000 + number) for number in range(100_000)])
    assert len(clock._changes) <= 1000


def test_our_own_changes_are_forgotten():
    """What inserting our rules changed tells nothing of the state after the baseline."""
    clock = noted([(1, 2)])
    clock.forget()
    assert clock.began_after(0, 10) == 0
