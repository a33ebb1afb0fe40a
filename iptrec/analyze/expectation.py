"""Expectations of a recording: what must be true of which packets, and whether it is.

A file of expectations is TOML: a table [[expect]] each, with a name, conditions that select packets (as the
options of every command do) and what is required of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from iptrec.analyze.replay import Replay

if TYPE_CHECKING:
    from iptrec.analyze.selection import Selection
    from iptrec.analyze.traversal import Traversal
    from iptrec.recording.rows import Recording


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of the selected packets there are at least ``least`` and at most ``most``, and each complies.

    ``verdict``: how it ends; ``rule``: (table, chain, number) that matches; ``chain``: (table, chain) that it
    passes; None: whatever.
    """

    name: str
    line: int  # in the file
    selection: Selection
    verdict: str | None = None
    rule: tuple[str, str, int] | None = None
    chain: tuple[str, str] | None = None
    least: int = 1
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """``failure`` is None where the expectation holds."""

    expectation: Expectation
    packets: int
    failure: str | None


def check(recording: Recording, expectation: Expectation) -> Result:
    """Look at the packets that are selected."""
    packets = 0
    failure: str | None = None
    for traversal in Replay(recording, expectation.selection):
        packets += 1
        failure = failure or _failure(traversal, expectation)
    if failure is None and packets < expectation.least:
        failure = f"{packets} packets, expected at least {expectation.least}"
    if failure is None and expectation.most is not None and packets > expectation.most:
        failure = f"{packets} packets, expected at most {expectation.most}"
    return Result(expectation, packets, failure)


def _failure(traversal: Traversal, expectation: Expectation) -> str | None:
    """What a packet does not comply with."""
    packet = f"packet #{traversal.number}"
    if expectation.verdict is not None and traversal.verdict != expectation.verdict:
        place = traversal.decided_by
        by = ""
        if place is not None:
            rule = "policy" if place.rule is None else f"rule {place.rule}"
            by = f" by {place.table}/{place.chain} {rule}"
        return f"{packet} is {traversal.verdict}{by}, expected {expectation.verdict}"
    places = {(step.table, step.chain, step.rule) for step in traversal.steps}
    if expectation.rule is not None and expectation.rule not in places:
        return f"{packet} is not matched by {'/'.join(map(str, expectation.rule))}"
    chains = {place[:2] for place in places}
    if expectation.chain is not None and expectation.chain not in chains:
        return f"{packet} does not pass {'/'.join(expectation.chain)}"
    return None
