"""The packets that a report shows, with their steps and why they ended so: some of each path, in bounded space.

What packets of a path have in common stands once: lines are numbered, and a packet has the numbers of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.packets.model import LOST
from iptrec.views import folded
from iptrec.views.report_text import ends, safe, size
from iptrec.views.text import (
    Layout,
    changes,
    connection_line,
    header_line,
    owner_words,
    place_of,
    remarks,
)
from iptrec.views.title import flow
from iptrec.views.why import decision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.packets import Batch
    from iptrec.answers.why import Explainer, Explanation
    from iptrec.packets.model import Step, Traversal

_OF_A_PATH: Final = 250  # packets, where there is room
_MOST: Final = 2_000  # packets
_BYTES: Final = 2_300_000  # of all of them
# Rules that are compared with packets, some microseconds each. Then only lost packets, the first of their path.
_RULES: Final = 100_000
_KEY: Final = 8  # bytes of a line's number
_WHY: Final = 60  # lines


class Chosen:
    """Of each path the first packets: as many as there is room for, of each the same number."""

    def __init__(self, explainer: Explainer, layout: Layout) -> None:
        self._explainer = explainer
        self._layout = layout
        self._each = _OF_A_PATH
        self._of: dict[int, list[tuple[dict[str, Any], int]]] = {}
        self._lines: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._next = 0
        self._used: dict[int, int] = {}  # how many packets have a line
        self._through: list[int] = []  # the paths of those that got through
        self._count = 0
        self._rules = 0
        self._bytes = 0

    def add(self, batch: Batch) -> None:
        """Choose among the packets of a batch."""
        paths = batch.paths[batch.positions]
        numbers, first, counts = np.unique(paths, return_index=True, return_counts=True)
        found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        # To explain a packet takes a millisecond: not of those that there is no room for
        while self._each > 1 and self._count + self._coming(found) > _MOST:
            self._thin()
        for number in numbers[np.argsort(first)].tolist():
            room = self._each - len(self._of.get(number, ()))
            for position in batch.positions[paths == number][: max(0, room)].tolist():
                self._add(batch, position, number)

    def _coming(self, counts: dict[int, int]) -> int:
        """Of how many packets of each path how many will be taken, as it is now."""
        return sum(
            min(many, max(0, self._each - len(self._of.get(number, ()))))
            for number, many in counts.items()
        )

    def _add(self, batch: Batch, position: int, number: int) -> None:
        found = len(self._of.get(number, ()))
        assembly = batch.window.assembly
        lost = assembly.outcomes[assembly.outcome[position]].verdict in LOST
        if found >= self._each or (self._full and not self._make_room(lost=lost)):
            return
        if self._rules > _RULES * (2 if lost and not found else 1):
            return
        told = self._explainer.explain(batch, position)
        self._rules += sum(len(step.passed) for step in told.steps)
        made = self._made(told, number)
        taken = size(made)
        self._of.setdefault(number, []).append((made, taken))
        if not lost and not found:
            self._through.append(number)
        self._count += 1
        self._bytes += taken
        while self._each > 1 and self._full:
            self._thin()

    @property
    def _full(self) -> bool:
        return self._count >= _MOST or self._bytes >= _BYTES

    def _make_room(self, *, lost: bool) -> bool:
        """For the first packet of a path that was lost: of those that got through the last one goes."""
        if not (lost and self._through):
            return False
        for one, taken in self._of.pop(self._through.pop()):
            self._drop(one, taken)
        return not self._full

    def _thin(self) -> None:
        self._each //= 2
        for packets in self._of.values():
            for one, taken in packets[self._each :]:
                self._drop(one, taken)
            del packets[self._each :]

    def _drop(self, one: dict[str, Any], taken: int) -> None:
        self._count -= 1
        self._bytes -= taken
        for line in one["why"]:
            self._used[line] -= 1
            if not self._used[line]:
                text = self._texts.pop(line)
                self._bytes -= size(text) + _KEY
                del self._lines[text], self._used[line]

    def _made(self, told: Explanation, path: int) -> dict[str, Any]:
        packet, layout = told.packet, self._layout
        _, *why = folded.as_text(told, layout)
        return safe(
            {
                "number": packet.number,
                "time": layout.clock.time(packet.time_ns),
                "time_ns": packet.time_ns,
                "path": path,
                "verdict": packet.verdict,
                "flow": flow(packet),
                "in": packet.in_ or "",
                "out": _last_out(packet) or "",
                "by": "" if packet.decided_by is None else place_of(packet.decided_by),
                "notes": remarks(packet, layout, layout.clock.time),
                "decision": decision(packet),
                "header": list(_header(packet)),
                "changed": [" ".join(_changed(step)) for step in ends(packet.steps)],
                "why": [self._line(safe(line)) for line in why[:_WHY]],
            }
        )

    def _line(self, text: str) -> int:
        number = self._lines.get(text)
        if number is None:
            number = self._lines[text] = self._next
            self._next += 1
            self._texts[number] = text
            self._bytes += size(text) + _KEY
        self._used[number] = self._used.get(number, 0) + 1
        return number

    def packets(self) -> list[dict[str, Any]]:
        """All that were chosen, in order."""
        found = [one for packets in self._of.values() for one, _ in packets]
        return sorted(found, key=lambda one: int(one["number"]))

    def lines(self) -> dict[int, str]:
        """The lines that packets have the numbers of."""
        return self._texts


def _header(packet: Traversal) -> Iterator[str]:
    """Lines: the packet as it came; its connection; whose socket it is of."""
    yield header_line(packet)
    if packet.connection is not None:
        yield connection_line(packet.connection)
    if owner := owner_words(packet):
        yield " ".join(owner)


def _last_out(packet: Traversal) -> str | None:
    """By which interface it went, or was to go."""
    return next((step.out for step in reversed(packet.steps) if step.out), packet.out)


def _changed(step: Step) -> Iterator[str]:
    """What is new in the packet at a step."""
    for name in ("in", "out"):
        if name in step.changed:
            before, now = step.changed[name]
            yield f"{name.upper()}={now or '-'} (was {before or '-'})"
    yield from changes(step.changed)
    if "mark" in step.changed:
        before, now = step.changed["mark"]
        yield f"MARK={now:#x} (was {before:#x})"
