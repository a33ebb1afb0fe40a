"""``why.md`` of a pack: why packets did not get through, a packet of each path, in bounded space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.why import Explainer
from iptrec.names import counted
from iptrec.packets.model import LOST
from iptrec.views import folded, issue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.packets import Batch, Packets
    from iptrec.recording.rows import Recording
    from iptrec.views.text import Layout

_MOST: Final = 50  # packets
_BYTES: Final = 400_000  # of all of them
_LINES: Final = 80  # of a packet


def page(
    recording: Recording, packets: Packets, layout: Layout, name: str, *, running: bool | None
) -> str:
    """Markdown; see `issue`. ``packets``: all of the recording; ``name``: of its file."""
    found = _Found(recording, layout)
    for batch in packets.batches(paths=True):
        found.add(batch)
    lines = ["# Why packets did not get through", "", *found.lines()]
    lines += issue.made_by(recording, running=running)
    lines.append(f"- recording: {issue.code(name)}, beside this page")
    return "\n".join(lines) + "\n"


class _Found:
    """Of each path on which packets were lost how many there are, and its first one in full."""

    def __init__(self, recording: Recording, layout: Layout) -> None:
        self._explainer = Explainer(recording)
        self._layout = layout
        self._packets = 0
        self._counts: dict[int, int] = {}
        self._texts: dict[int, list[str]] = {}
        self._room = _BYTES

    def add(self, batch: Batch) -> None:
        """Take the packets of a batch."""
        self._packets += len(batch.positions)
        paths = batch.paths[batch.positions]
        assembly = batch.window.assembly
        numbers, first, counts = np.unique(paths, return_index=True, return_counts=True)
        for at in np.argsort(first).tolist():
            number, position = int(numbers[at]), int(batch.positions[first[at]])
            if assembly.outcomes[assembly.outcome[position]].verdict not in LOST:
                continue
            if number not in self._counts and len(self._texts) < _MOST and self._room > 0:
                self._texts[number] = self._text(batch, position)
                self._room -= sum(len(line) + 1 for line in self._texts[number])
            self._counts[number] = self._counts.get(number, 0) + int(counts[at])

    def _text(self, batch: Batch, position: int) -> list[str]:
        told = self._explainer.explain(batch, position)
        lines = [self._layout.clock.full(told.packet.time_ns), *folded.as_text(told, self._layout)]
        if len(lines) > _LINES:
            more = counted(len(lines) - _LINES, "more line")
            lines[_LINES:] = [f"... {more}: iptrec why --packet {told.packet.number}"]
        return list(issue.excerpt(told.packet, [line[:_ROW] for line in lines]))

    def lines(self) -> Iterator[str]:
        """Without newlines; the path that most packets took comes first."""
        lost = sum(self._counts.values())
        if not lost:
            yield from (f"None of {counted(self._packets, 'packet')} was dropped or rejected.", "")
            return
        ways = counted(len(self._counts), "path")
        yield f"{lost:,} of {counted(self._packets, 'packet')} did not get through, on {ways}."
        yield "Of each path the first packet is below, with the rules that decided and why no earlier rule did."
        if more := len(self._counts) - len(self._texts):
            yield f"There was no room for {counted(more, 'more path')}: `iptrec paths` has them."
        yield ""
        for number, _ in sorted(self._texts.items(), key=lambda one: -self._counts[one[0]]):
            same = self._counts[number] - 1
            head, *rest = self._texts[number]
            yield f"{head}, and {counted(same, 'more packet')} on this path" if same else head
            yield from rest


_ROW: Final = 2000  # characters of a line
