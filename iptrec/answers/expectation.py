"""Expectations of a recording: what must be true of which packets, and whether it is.

A file of expectations is TOML: a table [[expect]] each, with a name, conditions that select packets (as the
options of every command do) and what is required of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.packets import Packets
from iptrec.answers.selection import is_among
from iptrec.names import counted
from iptrec.recording.rows import lost_events

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from iptrec.answers.packets import Batch
    from iptrec.answers.paths import Path
    from iptrec.answers.selection import Selection
    from iptrec.names import I64
    from iptrec.packets.model import Arrival
    from iptrec.recording.rows import Loss, Recording


_CUT: Final = "the headers were not recorded whole"


@dataclass(frozen=True, slots=True)
class Expectation:
    """Of the selected packets there are at least ``least`` and at most ``most``, and each complies.

    ``verdict``: how it ends; ``rule``: (table, chain, number) that matches; ``chain``: (table, chain) that it
    passes, both one of these: names with slashes can be read in several ways; None: whatever.
    """

    name: str
    line: int  # in the file
    selection: Selection
    verdict: str | None = None
    rule: frozenset[tuple[str, str, int]] | None = None
    chain: frozenset[tuple[str, str]] | None = None
    least: int = 1
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """``failure`` is None where the expectation holds; ``unknown``: whether it does is not known.

    That depends on packets which the filter cannot judge, or whose events were lost.

    ``unjudged``: of how many packets the filter does not know. ``lossy``: whether events of its time were
    lost. ``packet``, ``path``: the first one that does not comply; where there are too many, the first beyond
    as many as may be, and ``excess`` is how many those are. ``seconds``: what it took.
    """

    expectation: Expectation
    packets: int
    failure: str | None
    unknown: bool = False
    unjudged: int = 0
    lossy: bool = False
    packet: Arrival | None = None
    path: Path | None = None
    excess: int = 0
    seconds: float = 0.0


def check(recording: Recording, expectations: Collection[Expectation]) -> list[Result]:
    """Look at the packets that each selects, in one pass over the recording; each path is judged once."""
    packets, losses = Packets(recording), lost_events(recording)
    tallies = [_Tally(one, losses) for one in expectations]
    ends = any(one.selection.reasons for one in expectations)
    for batch in packets.batches(objects=ends):
        window, paths = batch.window, list(packets.book.paths)
        for one in tallies:
            begun = time.perf_counter()
            selection = one.expectation.selection
            here = window, batch.interfaces, (batch.host, batch.netns)
            one.add(batch, batch.chosen(selection, selection.positions(*here)), paths)
            unjudged = batch.chosen(selection, selection.unjudged(*here))
            one.doubt(unjudged, batch.paths, paths)
            one.seconds += time.perf_counter() - begun
    return [one.result() for one in tallies]


class _Tally:
    """What is known of an expectation so far. ``losses``: all of the recording."""

    def __init__(self, expectation: Expectation, losses: Sequence[Loss]) -> None:
        self.expectation = expectation
        self._losses = [one for one in losses if expectation.selection.may_have_lost(one)]
        self.seconds = 0.0
        self._packets = 0
        self._unjudged = 0
        self._suspects = 0
        self._failure: str | None = None
        self._first: tuple[Arrival, Path] | None = None  # that does not comply
        self._beyond: tuple[Arrival, Path] | None = None  # the first of those that are too many

    def add(self, batch: Batch, positions: I64, paths: Sequence[Path]) -> None:
        """Count the selected packets of a window; ``paths``: all of the book, of which it has the numbers."""
        numbers, before = batch.paths, self._packets
        self._packets += len(positions)
        most = self.expectation.most
        if most is not None and before <= most < self._packets:
            one = int(positions[most - before])
            self._beyond = batch.arrival(one), paths[int(numbers[one]) - 1]
        if self._failure is not None or not len(positions):
            return
        failures = {
            one: why
            for one in np.unique(numbers[positions]).tolist()
            if (why := _failure(paths[one - 1], self.expectation))
        }
        failing = positions[np.isin(numbers[positions], list(failures))]
        if len(failing):
            number = int(numbers[failing[0]])
            packet = batch.arrival(int(failing[0]))
            self._failure = f"packet #{packet.number} {failures[number]}"
            self._first = packet, paths[number - 1]

    def doubt(self, positions: I64, numbers: I64, paths: Sequence[Path]) -> None:
        """Count packets of which the filter does not know, and those of them that would not comply."""
        self._unjudged += len(positions)
        for one, many in zip(*np.unique(numbers[positions], return_counts=True), strict=True):
            if _failure(paths[int(one) - 1], self.expectation):
                self._suspects += int(many)

    def result(self) -> Result:
        """The judgement, once all packets were seen."""
        least, most, packets = self.expectation.least, self.expectation.most, self._packets
        failure, unknown, first, excess = self._failure, None, self._first, 0
        if failure is None and packets + self._unjudged < least and not self._losses:
            failure = f"{counted(packets, 'packet')}, expected at least {least}"
        if failure is None and most is not None and packets > most:
            failure = f"{counted(packets, 'packet')}, expected at most {most}"
            first, excess = self._beyond, packets - most
            if first is not None:
                failure += f": packet #{first[0].number} is the first too many"
        if failure is None and (unknown := self._unknown()):
            failure = f"not known: {unknown}"
        packet, path = first or (None, None)
        return Result(
            self.expectation,
            packets,
            failure,
            unknown is not None,
            self._unjudged,
            bool(self._losses),
            packet,
            path,
            excess,
            self.seconds,
        )

    def _unknown(self) -> str | None:
        """On what it depends whether it holds that is not known; None: it holds."""
        if doubtful := self._doubtful():
            return f"the filter cannot judge {counted(doubtful, 'packet')}: {_CUT}"
        asked = self.expectation
        of_each = (asked.verdict, asked.rule, asked.chain, asked.most) != (None,) * 4
        if not self._losses or not (of_each or self._packets < asked.least):
            return None
        lost = sum(one.events or 0 for one in self._losses)
        if not lost:
            return "events of that time were lost or not traced"
        return f"{counted(lost, 'event')} of that time {'was' if lost == 1 else 'were'} lost"

    def _doubtful(self) -> int:
        """On how many packets it depends of which the filter does not know."""
        least, most, packets = self.expectation.least, self.expectation.most, self._packets
        few, many = packets < least, most is not None and packets + self._unjudged > most
        return self._unjudged if few or many else self._suspects


def _failure(path: Path, expectation: Expectation) -> str | None:
    """What the packets of a path do not comply with."""
    if expectation.verdict is not None and path.verdict != expectation.verdict:
        place = path.decided_by
        by = "" if path.by_kernel is None else f" {path.by_kernel}"
        if place is not None:
            by = f" by {place.table}/{place.chain} {place.what}"
        return f"is {path.verdict}{by}, expected {expectation.verdict}"
    places = {(step.table, step.chain, step.rule) for step in path.steps}
    if expectation.rule is not None and not expectation.rule & places:
        return f"is not matched by {'/'.join(map(str, min(expectation.rule)))}"
    chains = expectation.chain
    if chains is not None and not any(is_among(chains, *place[:2]) for place in places):
        return f"does not pass {'/'.join(filter(None, min(chains)))}"
    return None
