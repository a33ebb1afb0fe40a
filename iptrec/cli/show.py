"""``iptrec show``."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from iptrec.cli import selection as which
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.cli.output import Mode
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from iptrec.api import Recording
    from iptrec.packets.model import Traversal

_POLL_S: Final = 0.1
_BEHIND_OTHERS: Final = 10  # nice(2)
Phys = Annotated[
    bool,
    typer.Option("--phys/--no-phys", rich_help_panel=OUTPUT, help="Bridge ports: PHYSIN, PHYSOUT."),
]
Ct = Annotated[
    bool,
    typer.Option(
        "--ct/--no-ct",
        rich_help_panel=OUTPUT,
        help="What conntrack knew at each step (nf_tables).",
    ),
]
Rules = Annotated[
    bool,
    typer.Option(
        "--rules/--no-rules", rich_help_panel=OUTPUT, help="The text of the rules that matched."
    ),
]
IfaceChanges = Annotated[
    bool,
    typer.Option(
        "--iface-changes/--no-iface-changes",
        rich_help_panel=OUTPUT,
        help="IN= and OUT= where they change.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=OUTPUT, help="One JSON object a line (schemas/)."),
]
Colour = Annotated[
    str,
    typer.Option("--color", metavar="WHEN", rich_help_panel=OUTPUT, help="auto, always or never."),
]


Chains = Annotated[
    str,
    typer.Option(
        "--chain",
        rich_help_panel=which.GROUP,
        metavar="TABLE/CHAIN,...",
        help="Packets that pass one of these, and only their steps there.",
    ),
]


@which.selection(chain=Chains)
def show(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    chosen: which.Chosen = which.NOTHING_TYPED,
    phys: Phys = False,
    ct: Ct = False,
    rules: Rules = True,
    iface_changes: IfaceChanges = True,
    json: Json = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Events that belong to no packet, instead of packets.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for more until the recording is closed.")
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="A file; - is stdout.",
        ),
    ] = "-",
    mode: Mode = "",
    color: Colour = "auto",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No word on stderr about losses and the like.")
    ] = False,
    held: Annotated[int | None, typer.Option("--held", hidden=True)] = None,
    tally: Annotated[bool, typer.Option("--tally", hidden=True)] = False,
) -> int:
    """Show packets step by step through tables, chains and rules.

    Needs neither root nor netfilter. Exit status 1 when nothing fits the selection.

    Examples:

      iptrec show trace.db

      iptrec show trace.db --verdict DROP,REJECT tcp port 443

      iptrec show trace.db --chain filter/FORWARD,filter/DOCKER-USER --json
    """
    from iptrec.answers.select import places
    from iptrec.cli import recordings
    from iptrec.cli.output import colours, opened
    from iptrec.views import json_lines, text
    from iptrec.views import packet_json as as_json

    layout = text.Layout(
        colour=colours(color, output),
        phys=phys,
        ct=ct,
        rules=rules,
        iface_changes=iface_changes,
    )
    shown = 0
    verdicts: Counter[str] = Counter()
    _look_as_nobody(held)
    with (
        recordings.opened(recording, held=held, index=not follow) as source,
        opened(output, recording, mode, grows=follow) as stream,
    ):
        conditions = chosen.of(source)
        everything = not (chosen.filter or conditions)
        packets = source.packets(chosen.filter, **conditions)
        _give_up_rights(held, behind_others=quiet)
        if orphans:
            if follow or not everything:
                raise UsageError("--orphans shows all events without a packet; leave the rest out")
            return _show_orphans(source, stream, json=json)
        chains = places(source.rows, which.chains(chosen.chain))
        holes = _Holes(source)
        if json and not (follow or chains):  # many at once
            columns = packets.columns()
            for batch in columns.batches():
                stream.writelines(json_lines.text(batch))
            shown, unjudged = columns.count, columns.unjudged
            return _ending(source, shown, unjudged, chosen, everything=everything, quiet=quiet)
        for packet in packets.follow() if follow else packets:
            limited = _limited(packet, chains)
            if json:
                stream.write(as_json.line(limited) + "\n")
            else:
                stream.write("".join(holes.until(packet.time_ns, look=follow)))
                stream.write(("\n" if shown else "") + text.render(limited, layout))
            shown += 1
            verdicts[packet.verdict] += 1
            if follow:
                stream.flush()
        if not json:
            stream.write("".join(holes.until(None, look=follow)))
        if tally:
            _tell_tally(verdicts, source)
        asked = which.NOTHING_TYPED if follow else chosen  # a chain may be made later
        return _ending(
            source,
            shown,
            packets.unjudged,
            asked,
            everything=everything,
            quiet=quiet,
            tally=tally,
        )


def _tell_tally(verdicts: Counter[str], recording: Recording) -> None:
    """What was seen, on stderr, for `iptrec trace`."""
    from iptrec.views.info import how_many

    count = verdicts.total()
    each = ", ".join(f"{number:,} {verdict}" for verdict, number in verdicts.most_common())
    lost = how_many(recording.losses) or "none lost"
    print(
        f"traced {count:,} packet{'' if count == 1 else 's'}{f': {each}' if each else ''} ({lost})",
        file=sys.stderr,
    )


def _look_as_nobody(held: int | None) -> None:
    """Beside a recorder that is root (`follower`): be somebody who can write no file."""
    if held is not None:
        from iptrec.kernel import host, privileges

        privileges.look_as(*host.nobody())


def _give_up_rights(held: int | None, *, behind_others: bool) -> None:
    """Beside a recorder: what comes next are strangers' packets.

    All code is loaded before: it may lie where only root can read it. ``behind_others``: run from now on only
    while the processor has little else to do; not before, for until then it has rights.
    """
    if held is not None:
        from iptrec.decode import packet
        from iptrec.kernel import privileges, process
        from iptrec.views import escape  # noqa: F401 - for errors

        packet.load()
        privileges.give_up()
        process.end_with_parent()
        if behind_others:
            os.nice(_BEHIND_OTHERS)


def _ending(
    recording: Recording,
    shown: int,
    unjudged: int,
    asked: which.Chosen,
    *,
    everything: bool,
    quiet: bool,
    tally: bool = False,
) -> int:
    """The exit status; a selection that fits no packet is reported, and what the recording lacks."""
    from iptrec.cli import recordings

    nothing = not shown and not everything
    if nothing:
        asked.require_chains(recording)
    remarks = ["no packet matches"] if nothing else []
    remarks += recordings.flaws(recording, unjudged, trace=tally)
    if remarks and not quiet:
        print(f"iptrec show: {'; '.join(remarks)}", file=sys.stderr)
    return EXIT_NO if nothing else EXIT_DONE


class _Holes:
    """What is missing between the packets, each shown once, at its place."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._losses = recording.losses
        self._shown = 0
        self._looked = time.monotonic()

    def until(self, time_ns: int | None, *, look: bool) -> list[str]:
        """Those that ended before a packet; None: all. ``look``: the file may have more by now."""
        from iptrec.views import text

        if look and time.monotonic() > self._looked + _POLL_S:
            self._looked = time.monotonic()
            self._losses = self._recording.losses
        ended = list(
            itertools.takewhile(
                lambda loss: time_ns is None or loss.last_ns <= time_ns, self._losses[self._shown :]
            )
        )
        self._shown += len(ended)
        return text.holes(ended)


def _show_orphans(recording: Recording, stream: TextIO, *, json: bool) -> int:
    from iptrec.answers.orphans import orphans
    from iptrec.views.orphans import as_json, as_text

    found = False
    for orphan in orphans(recording.rows):
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
