"""``iptrec show``."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.analyze.traversal import Traversal
    from iptrec.recording.reader import Reader

_POLL_S: Final = 0.1
_VERDICTS: Final = ("ACCEPT", "DROP", "REJECT", "QUEUE", "STOLEN", "REASSEMBLED", "UNKNOWN")

Chains = Annotated[
    str,
    typer.Option("--chain", metavar="TABLE/CHAIN,...", help="Print only steps in these chains."),
]
Verdicts = Annotated[
    str,
    typer.Option(
        "--verdict", metavar="V,...", help="Packets that ended so: ACCEPT, DROP, UNKNOWN, ..."
    ),
]
Phys = Annotated[bool, typer.Option("--phys/--no-phys", help="Bridge ports: PHYSIN, PHYSOUT.")]
Rules = Annotated[
    bool, typer.Option("--rules/--no-rules", help="The text of the rules that matched.")
]
IfaceChanges = Annotated[
    bool,
    typer.Option("--iface-changes/--no-iface-changes", help="IN= and OUT= where they change."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line (schemas/).")]
Colour = Annotated[str, typer.Option("--color", help="auto, always or never.")]


def show(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILTER",
            help="Packets to show, in tcpdump's language (man pcap-filter). A packet fits as it came in,"
            " as it went out, or as it was at any rule between.",
        ),
    ] = None,
    chains: Chains = "",
    interfaces: Annotated[
        str,
        typer.Option(
            "--iface", metavar="A,B", help="Packets that come in or go out by one of these."
        ),
    ] = "",
    verdicts: Verdicts = "",
    number: Annotated[
        int | None, typer.Option("--packet", min=1, help="This packet alone.")
    ] = None,
    phys: Phys = False,
    rules: Rules = True,
    iface_changes: IfaceChanges = True,
    json: Json = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Events that belong to no packet, instead of packets.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for more until the recording is closed.")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is stdout.")] = "-",
    color: Colour = "auto",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No word on stderr about losses and the like.")
    ] = False,
) -> int:
    """Show the packets of a recording: each step through tables, chains and rules, and the verdict.

    Needs neither root nor netfilter. Exit status 1 when nothing fits the selection.

    Examples:
      iptrec show trace.db

      iptrec show trace.db --verdict DROP,REJECT tcp port 443

      iptrec show trace.db --chain filter/FORWARD,filter/DOCKER-USER --json
    """
    from iptrec.analyze.replay import Replay
    from iptrec.cli.output import colours, opened
    from iptrec.decode.pcapfilter import PacketFilter
    from iptrec.recording.reader import Reader
    from iptrec.views import json as as_json
    from iptrec.views import text

    layout = text.Layout(
        colour=colours(color, output), phys=phys, rules=rules, iface_changes=iface_changes
    )
    places = frozenset(_chain(one) for one in _list(chains))
    wanted = frozenset(_verdict(one) for one in _list(verdicts))
    expression = " ".join(words or [])
    selected = bool(expression or interfaces or wanted or number)
    if orphans:
        if selected or places or follow:
            raise UsageError("--orphans shows all events without a packet; leave the selection out")
        return _show_orphans(recording, output, json=json)
    packet_filter = PacketFilter(expression) if expression else None
    shown = 0
    with Reader(recording) as reader, opened(output, recording) as stream:
        replay = Replay(
            reader,
            packet_filter=packet_filter,
            interfaces=_list(interfaces),
            verdicts=wanted,
            number=number,
        )
        holes = _Holes(reader)
        for traversal in replay.follow(_ticks(reader)) if follow else replay:
            limited = _limited(traversal, places)
            if json:
                stream.write(as_json.line(limited) + "\n")
            else:
                stream.write("".join(holes.until(traversal.time_ns, look=follow)))
                stream.write(("\n" if shown else "") + text.render(limited, layout))
            shown += 1
            if follow:
                stream.flush()
        if not json:
            stream.write("".join(holes.until(None, look=follow)))
        notes = _notes(reader)
    nothing = not shown and selected
    if nothing:
        notes.insert(0, "no packet fits")
    if notes and not quiet:
        print(f"iptrec show: {'; '.join(notes)}", file=sys.stderr)
    return EXIT_NO if nothing else EXIT_DONE


class _Holes:
    """The times in which nothing was traced, each told once, at its place."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._losses = reader.losses
        self._told = 0
        self._looked = time.monotonic()

    def until(self, time_ns: int | None, *, look: bool) -> Iterator[str]:
        """Those that ended before a packet; None: all. ``look``: the file may have more by now."""
        from iptrec.views import text

        if look and time.monotonic() > self._looked + _POLL_S:
            self._looked = time.monotonic()
            self._losses = self._reader.losses
        for loss in self._losses[self._told :]:
            if time_ns is not None and loss.last_ns > time_ns:
                return
            self._told += 1
            if line := text.hole(loss):
                yield line


def _show_orphans(recording: str, output: str, *, json: bool) -> int:
    from iptrec.analyze.orphans import orphans
    from iptrec.cli.output import opened
    from iptrec.recording.reader import Reader
    from iptrec.views.orphans import as_json, as_text

    found = False
    with Reader(recording) as reader, opened(output, recording) as stream:
        for orphan in orphans(reader):
            stream.write((as_json if json else as_text)(orphan) + "\n")
            found = True
    if not found:
        print("iptrec show: every event belongs to a packet", file=sys.stderr)
    return EXIT_DONE if found else EXIT_NO


def _limited(traversal: Traversal, places: Collection[tuple[str, str]]) -> Traversal:
    """The traversal with its steps in these (table, chain) alone, with all of them if there are none."""
    if not places:
        return traversal
    steps = (step for step in traversal.steps if (step.table, step.chain) in places)
    return replace(traversal, steps=tuple(steps))


def _notes(reader: Reader) -> list[str]:
    """What the reader of the packets must know about the recording."""
    from iptrec.views.info import how_many

    notes = []
    if reader.losses:
        notes.append(f"{how_many(reader.losses)}; see iptrec info")
    if not reader.facts.closed:
        notes.append("the recording was not closed: cut off or running")
    return notes


def _list(text: str) -> list[str]:
    return [one for one in text.split(",") if one]


def _verdict(text: str) -> str:
    if text.upper() not in _VERDICTS:
        raise UsageError(f"--verdict {text!r} is none of {', '.join(_VERDICTS)}")
    return text.upper()


def _chain(text: str) -> tuple[str, str]:
    table, slash, chain = text.partition("/")
    if not (table and slash and chain):
        raise UsageError(f"--chain {text!r} is not TABLE/CHAIN, as in filter/FORWARD")
    return table, chain


def _ticks(reader: Reader) -> Iterator[int]:
    """The time, again and again, until the recording is closed."""
    while not reader.facts.closed:
        yield time.time_ns()
        time.sleep(_POLL_S)
