"""Packets that may have passed tables of nf_tables whose rules nobody knew then.

Events in such a table are of a packet by themselves. What legacy iptables tells of the same packet is not the
whole of it, though it may look so: the table's chains may have dropped it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from iptrec.packets.outcome import NOT_KNOWN
from iptrec.rulesets.table_names import backend_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import I64, Family, Mask
    from iptrec.packets.outcome import Outcome
    from iptrec.rulesets.resolver import Book
    from iptrec.rulesets.timeline import Timeline


@dataclass(frozen=True, slots=True)
class _Gaps:
    """``before[i]``: of how many states up to the i-th nobody knows the rules."""

    timeline: Timeline
    before: I64

    def may_be(self, earliest_ns: I64, latest_ns: I64) -> Mask:
        """Whether one of them may have held somewhere between two times."""
        first, last = self.timeline.candidates(earliest_ns, latest_ns)
        found: Mask = self.before[last + 1] > self.before[first]
        return found


class UnknownRules:
    """The tables of nf_tables whose rules are not known at times, as a book has them now."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._of: dict[Family, dict[str, _Gaps]] = {}

    def judged(
        self, outcome: Outcome, earliest_ns: I64, latest_ns: I64
    ) -> Iterator[tuple[Mask, Outcome]]:
        """Which of some packets, under way between two times (epoch), ended so, and which not."""
        left = np.ones(len(earliest_ns), np.bool_)
        if outcome.complete:
            met = {self._book.places[one].table for one in outcome.path}
            for name, gaps in self._gaps(self._book.families[outcome.path[0]]).items():
                here = left & gaps.may_be(earliest_ns, latest_ns)
                if name not in met and here.any():
                    reason = NOT_KNOWN.format(name)
                    yield here, replace(outcome, complete=False, finished=False, reason=reason)
                    left &= ~here
        if left.any():
            yield left, outcome

    def _gaps(self, family: Family) -> dict[str, _Gaps]:
        if family not in self._of:
            self._of[family] = {
                name: _Gaps(timeline, np.append(0, np.cumsum(unknown)))
                for name, timeline in self._book.timelines.loaded(family).items()
                if backend_of(name) != "legacy"
                and any(unknown := [one.chains is None for one in timeline.states])
            }
        return self._of[family]
