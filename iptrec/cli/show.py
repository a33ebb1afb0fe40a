"""``iptrec show``."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.reader import Reader

_POLL_S = 0.1

Chains = Annotated[
    str,
    typer.Option("--chain", metavar="TABLE/CHAIN,...", help="Print only steps in these chains."),
]
Verdicts = Annotated[
    str, typer.Option("--verdict", metavar="V,...", help="ACCEPT, DROP, REJECT, QUEUE, UNKNOWN.")
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
            metavar="[FILTER]",
            help="Packets to show, in tcpdump's language: any stage of the packet matches.",
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
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for more until the recording is closed.")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is stdout.")] = "-",
    color: Colour = "auto",
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

    expression = " ".join(words or [])
    selected = bool(expression or interfaces or verdicts or number)
    shown = 0
    with Reader(recording) as reader:
        replay = Replay(
            reader,
            packet_filter=PacketFilter(expression) if expression else None,
            interfaces=_list(interfaces),
            verdicts=_list(verdicts.upper()),
            number=number,
        )
        with opened(output) as stream:
            layout = text.Layout(
                colour=colours(color, stream),
                phys=phys,
                rules=rules,
                iface_changes=iface_changes,
                chains=frozenset(_chain(one) for one in _list(chains)),
            )
            for traversal in replay.follow(_ticks(reader)) if follow else replay:
                if json:
                    stream.write(as_json.line(traversal) + "\n")
                else:
                    stream.write(("\n" if shown else "") + text.render(traversal, layout))
                shown += 1
                if follow:
                    stream.flush()
        lost = sum(loss.events or 0 for loss in reader.losses)
        if lost:
            print(f"iptrec show: {lost:,} events were lost; see iptrec info", file=sys.stderr)
        if not reader.facts.closed:
            print("iptrec show: the recording was not closed: cut off or running", file=sys.stderr)
    if selected and not shown:
        print("iptrec show: no packet fits", file=sys.stderr)
        return EXIT_NO
    return EXIT_DONE


def _list(text: str) -> list[str]:
    return [one for one in text.split(",") if one]


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
