"""How `show` and `trace` print packets: the options, and what is printed around each packet."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, Literal, TextIO

import typer

from iptrec.cli.output import GROUP

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from iptrec.answers.packets import Packets
    from iptrec.api import Recording
    from iptrec.packets.model import Traversal
    from iptrec.recording import rows
    from iptrec.recording.rows import Loss
    from iptrec.views.text import Layout

MANY: Final = 40  # packets: on a terminal more than these get a line each
_POLL_S: Final = 0.1

CHOSE_BRIEF: Final = f"more than {MANY} packets get a line each; --no-brief prints every step"
Form = Literal["steps", "brief", "classic", "chosen"]  # the last: brief if there are many packets
Brief = Annotated[
    bool | None,
    typer.Option(
        "--brief/--no-brief",
        rich_help_panel=GROUP,
        help=f"A line a packet, or every step. On a terminal more than {MANY} packets get a line each.",
    ),
]
Classic = Annotated[
    bool,
    typer.Option(
        "--classic",
        rich_help_panel=GROUP,
        help="The layout of iptables-tracer unaltered; times in UTC.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        rich_help_panel=GROUP,
        help="Every field at every step, link addresses, all digits of times.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", rich_help_panel=GROUP, metavar="N", min=1, help="The first N packets."),
]
Tail = Annotated[
    int | None,
    typer.Option("--tail", rich_help_panel=GROUP, metavar="N", min=1, help="The last N packets."),
]
Pager = Annotated[
    bool,
    typer.Option(
        "--pager/--no-pager",
        rich_help_panel=GROUP,
        help="On a terminal: what is longer than the screen goes to $PAGER.",
    ),
]


def form(brief: bool | None, *, classic: bool, choose: bool) -> Form:
    """What was asked for; where nothing was, whether the number of packets may ``choose``."""
    if classic:
        return "classic"
    if brief is None and choose:
        return "chosen"
    return "brief" if brief else "steps"


class Printer:
    """Prints packets as text, with what is missing between them, and the date where it changes.

    ``places``: the chains whose steps are printed, see `answers.selection.is_among`; all of them if there are
    none. ``alone``: it is one packet that somebody named, and nothing is missing beside it. ``grows``: the
    recording may have more losses by and by.
    """

    def __init__(
        self,
        recording: Recording,
        stream: TextIO,
        layout: Layout,
        form: Form,
        places: Collection[tuple[str, str]] = (),
        *,
        alone: bool = False,
        grows: bool = False,
    ) -> None:
        from iptrec.recording.hosts import hosts
        from iptrec.views.timestamps import Days

        self._stream = stream
        self._layout = layout
        self._form = form
        self._places = places
        self._alone = alone
        several = hosts(recording.rows)
        self._holes: dict[str | None, _Holes] = {
            name: _Holes([one.recording for one in several if one.name == name])
            for name in dict.fromkeys(one.name for one in several)
        } or {None: _Holes([recording.rows], grows=grows)}
        self._host = next(iter(self._holes))
        self._days = Days(layout.clock)
        self._grows = grows
        self.chose_brief = False

    def text(self, packets: Iterable[Traversal]) -> int:
        """Print them, and in the end what is missing behind the last; return how many they were."""
        printed = 0
        for packet in self._choose(packets):
            self._write_before(packet)
            if printed and self._form != "brief":
                self._stream.write("\n")
            if self._form != "classic":
                self._stream.write(self._days.line(packet.time_ns))
            self._stream.write(self._text(packet))
            printed += 1
            if self._grows:
                self._stream.flush()
        for host in self._holes:
            self._write_holes(host, None)
        return printed

    def columns(self, packets: Packets) -> int:
        """Print them as JSON, many at once; return how many they were."""
        from iptrec.views import json_lines

        for batch in packets.batches():
            self._stream.writelines(json_lines.text(batch))
        return packets.count

    def json(self, packets: Iterable[Traversal]) -> int:
        """Print them as JSON, one by one; return how many they were."""
        from iptrec.views.packet_json import line

        printed = 0
        for packet in packets:
            self._stream.write(line(limit_steps(packet, self._places)) + "\n")
            printed += 1
            if self._grows:
                self._stream.flush()
        return printed

    def _choose(self, packets: Iterable[Traversal]) -> Iterable[Traversal]:
        """The same packets, once it is known how they are printed."""
        if self._form != "chosen":
            return packets
        packets = iter(packets)
        first = list(itertools.islice(packets, MANY + 1))
        self.chose_brief = len(first) > MANY
        self._form = "brief" if self.chose_brief else "steps"
        return itertools.chain(first, packets)

    def _text(self, packet: Traversal) -> str:
        from iptrec.views import show, text, title

        if self._form == "brief":
            return title.brief(packet, self._layout) + "\n"
        limited = limit_steps(packet, self._places)
        if self._form == "classic":
            return text.render(limited, self._layout)
        return show.as_text(packet, self._layout, limited.steps)

    def _write_before(self, packet: Traversal) -> None:
        """What is missing before a packet; of a host whose packets are over, all of it."""
        if packet.host != self._host:
            self._write_holes(self._host, None)
            self._host = packet.host
        self._write_holes(packet.host, packet.time_ns)

    def _write_holes(self, host: str | None, time_ns: int | None) -> None:
        from iptrec.views import text
        from iptrec.views.packet_json import iso_time

        if not self._alone and (ended := self._holes[host].until(time_ns)):
            when = iso_time if self._form == "classic" else self._layout.clock.full
            self._stream.writelines(text.holes(ended, when, host))


class _Holes:
    """What is missing between the packets of a host, each once, at its place; its recordings are those."""

    def __init__(self, recordings: Sequence[rows.Recording], *, grows: bool = False) -> None:
        self._recordings = recordings
        self._losses = self._lost()
        self._shown = 0
        self._looked = time.monotonic()
        self._grows = grows

    def _lost(self) -> list[Loss]:
        from iptrec.recording.rows import lost_events

        lost = [loss for one in self._recordings for loss in lost_events(one)]
        return sorted(lost, key=_place_ns)

    def until(self, time_ns: int | None) -> list[Loss]:
        """Those whose place is before a packet; None: all."""
        if self._grows and time.monotonic() > self._looked + _POLL_S:
            self._looked = time.monotonic()
            self._losses = self._lost()
        ended = list(
            itertools.takewhile(
                lambda loss: time_ns is None or _place_ns(loss) < time_ns,
                self._losses[self._shown :],
            )
        )
        self._shown += len(ended)
        return ended


def _place_ns(loss: Loss) -> int:
    """Where it is told: events were lost from then on; our rules may have been in place for most of a time."""
    from iptrec.views.losses import HOLES

    return loss.last_ns if loss.how in HOLES else loss.first_ns


def limit_steps(traversal: Traversal, places: Collection[tuple[str, str]]) -> Traversal:
    """The traversal with its steps in these chains alone, with all of them if there are none."""
    from iptrec.answers.selection import is_among

    if not places:
        return traversal
    steps = (step for step in traversal.steps if is_among(places, step.table, step.chain))
    return replace(traversal, steps=tuple(steps))
