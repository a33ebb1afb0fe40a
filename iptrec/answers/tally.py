"""Counts of packets by their verdicts and by the rules that decided, for who watches a recording for days.

A count never goes down. A rule has no identity that outlives a change of its chain, so a packet counts for the
number and the text that its rule had then.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.window import Window
    from iptrec.rulesets.resolver import Book

MOST: Final = 2_000  # of what is counted apart; rules may come and go for years
_LONGEST: Final = 200  # characters of a rule's text, or of a name
POLICY, OTHER = "policy", "other"  # in the place of a rule's number


class Decided(NamedTuple):
    """What is counted apart.

    ``family``: "ipv4" or "ipv6", the packet's. ``rule``: its number, `POLICY`, "" where nobody knows which one
    it was, `OTHER` for those beyond `MOST`. ``text``: of the rule, cut. All are "" where nothing is known to
    have decided.
    """

    verdict: str
    family: str
    table: str = ""
    chain: str = ""
    rule: str = ""
    text: str = ""


class Tally:
    """Counts the decided packets of windows. ``events``: those of these windows that are done with."""

    def __init__(self) -> None:
        self.packets: Counter[Decided] = Counter()
        self.incomplete = self.ambiguous = self.events = 0

    def add(self, window: Window) -> None:
        """Count a window, once."""
        assembly = window.assembly
        each = np.bincount(assembly.outcome[: window.decided]).tolist()
        for outcome, count in zip(assembly.outcomes, each, strict=False):
            if count:
                self.packets[self._known(_decided(outcome, window.resolver))] += count
                self.incomplete += 0 if outcome.complete else count
                self.ambiguous += 0 if outcome.doubt is None else count
        self.events += (
            len(window.rows()) + len(window.unplaced) + len(window.unread) + assembly.ours
        )

    def _known(self, one: Decided) -> Decided:
        if one in self.packets or len(self.packets) < MOST:
            return one
        return Decided(one.verdict, one.family, rule=OTHER)


def _decided(outcome: Outcome, book: Book) -> Decided:
    family = book.families[outcome.path[0]]
    if outcome.decider is None or outcome.decider in outcome.unsure:
        return Decided(outcome.verdict, family)
    place = book.places[outcome.path[outcome.decider]]
    number = "" if place.number is None else str(place.number)
    return Decided(
        outcome.verdict,
        family,
        _cut(place.table),
        _cut(place.chain),
        POLICY if place.end else number,
        "" if place.rule is None else _cut(place.rule.spec),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
