"""``iptrec show``."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from iptrec.cli import selection as which
from iptrec.cli.output import Mode
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.answers.selection import Selection
    from iptrec.packets.model import Traversal
    from iptrec.recording.reader import Reader

_POLL_S: Final = 0.1
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
    words: which.Words = None,
    chains: Annotated[
        str,
        typer.Option(
            "--chain",
            metavar="TABLE/CHAIN,...",
            help="Packets that pass one of these, and only their steps there.",
        ),
    ] = "",
    rule_numbers: which.RuleNumbers = "",
    interfaces: which.Interfaces = "",
    verdicts: which.Verdicts = "",
    netns: which.Netns = "",
    whole: which.Whole = None,
    mark: which.Mark = "",
    since: which.Since = "",
    until: which.Until = "",
    number: which.Number = None,
    path: which.PathNumber = None,
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
    mode: Mode = "",
    color: Colour = "auto",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No word on stderr about losses and the like.")
    ] = False,
    held: Annotated[int | None, typer.Option("--held", hidden=True)] = None,
) -> int:
    """Show the packets of a recording: each step through tables, chains and rules, and the verdict.

    Needs neither root nor netfilter. Exit status 1 when nothing fits the selection.

    Examples:

      iptrec show trace.db

      iptrec show trace.db --verdict DROP,REJECT tcp port 443

      iptrec show trace.db --chain filter/FORWARD,filter/DOCKER-USER --json
    """
    from iptrec.answers.packets import Replay
    from iptrec.cli.index import remembered
    from iptrec.cli.output import colours, flaws, opened
    from iptrec.views import json_lines, text
    from iptrec.views import packet_json as as_json

    layout = text.Layout(
        colour=colours(color, output), phys=phys, rules=rules, iface_changes=iface_changes
    )
    shown = 0
    with (
        _opened(recording, held) as reader,
        opened(output, recording, mode, grows=follow) as stream,
        contextlib.nullcontext() if follow else remembered(reader) as bookmarks,
    ):
        selection = which.make(
            reader, words=words, interfaces=interfaces, chains=chains, rules=rule_numbers,
            verdicts=verdicts, netns=netns, whole=whole, mark=mark, since=since, until=until,
            number=number, path=path,
        )  # fmt: skip
        _give_up_rights(held)
        if orphans:
            if follow or not selection.everything:
                raise UsageError("--orphans shows all events without a packet; leave the rest out")
            return _show_orphans(reader, stream, json=json)
        replay = Replay(reader, selection, bookmarks)
        holes = _Holes(reader)
        if json and not (follow or selection.chains):  # many at once
            for batch in replay.in_batches():
                stream.writelines(json_lines.text(batch))
                shown += len(batch.positions)
            return _ending(shown, selection, flaws(reader), quiet=quiet)
        for traversal in replay.follow(_ticks(reader)) if follow else replay:
            limited = _limited(traversal, selection.chains)
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
        return _ending(shown, selection, flaws(reader), quiet=quiet)


def _opened(recording: str, held: int | None) -> Reader:
    """The recording; beside a recorder that is root (`follower`) as somebody who can write no file."""
    from iptrec.recording.reader import Reader

    if held is not None:
        from iptrec.kernel import host, privileges

        privileges.look_as(*host.nobody())
    return Reader(recording, held)


def _give_up_rights(held: int | None) -> None:
    """Beside a recorder: what comes next are strangers' packets.

    All code is loaded before: it may lie where only root can read it.
    """
    if held is not None:
        from iptrec.decode import packet
        from iptrec.kernel import privileges, process
        from iptrec.views import escape  # noqa: F401 - for errors

        packet.load()
        privileges.give_up()
        process.end_with_parent()


def _ending(shown: int, selection: Selection, remarks: list[str], *, quiet: bool) -> int:
    """The exit status; a selection that fits no packet is told, and what the recording lacks."""
    nothing = not shown and not selection.everything
    if nothing:
        remarks.insert(0, "no packet fits")
    if remarks and not quiet:
        print(f"iptrec show: {'; '.join(remarks)}", file=sys.stderr)
    return EXIT_NO if nothing else EXIT_DONE


class _Holes:
    """What is missing between the packets, each told once, at its place."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._losses = reader.losses
        self._told = 0
        self._looked = time.monotonic()

    def until(self, time_ns: int | None, *, look: bool) -> list[str]:
        """Those that ended before a packet; None: all. ``look``: the file may have more by now."""
        from iptrec.views import text

        if look and time.monotonic() > self._looked + _POLL_S:
            self._looked = time.monotonic()
            self._losses = self._reader.losses
        ended = list(
            itertools.takewhile(
                lambda loss: time_ns is None or loss.last_ns <= time_ns, self._losses[self._told :]
            )
        )
        self._told += len(ended)
        return text.holes(ended)


def _show_orphans(reader: Reader, stream: TextIO, *, json: bool) -> int:
    from iptrec.answers.orphans import orphans
    from iptrec.views.orphans import as_json, as_text

    found = False
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


def _ticks(reader: Reader) -> Iterator[int]:
    """The time, again and again, until the recording is closed."""
    while not reader.facts.closed:
        yield time.time_ns()
        time.sleep(_POLL_S)
