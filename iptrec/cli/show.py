"""``iptrec show``."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from iptrec.cli import layout as printing
from iptrec.cli import selection as which
from iptrec.cli.follower import (
    Held,
    Parent,
    Tally,
    give_up_rights,
    look_as_nobody,
    tell_tally,
    while_read,
)
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.cli.output import Mode
from iptrec.cli.several import HELP
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.api import Recording
    from iptrec.packets.model import Traversal
    from iptrec.views.timestamps import Clock

_ORPHANS: Final = "all events without a packet"
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
        callback=which.given,
        rich_help_panel=which.GROUP,
        metavar="TABLE/CHAIN,...",
        help="Packets that pass one of these, and only their steps there.",
    ),
]


@which.selection(chain=Chains)
def show(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)],
    chosen: which.Chosen = which.NOTHING_TYPED,
    phys: Phys = False,
    ct: Ct = False,
    rules: Rules = True,
    iface_changes: IfaceChanges = True,
    verbose: printing.Verbose = False,
    brief: printing.Brief = None,
    classic: printing.Classic = False,
    limit: printing.Limit = None,
    tail: printing.Tail = None,
    pager: printing.Pager = True,
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
    held: Held = None,
    parent: Parent = None,
    tally: Tally = False,
) -> int:
    """Show packets step by step through tables, chains and rules.

    Needs neither root nor netfilter. Times are local: a line tells date and zone where these change. A packet
    that was dropped, rejected or discarded has --> at the margin. A chain without a table is one of any
    table. Exit status 1 when nothing fits the selection.

    Examples:

      iptrec show trace.db

      iptrec show trace.db --verdict DROP,REJECT tcp port 1242

      iptrec show trace.db --brief --since 10:02 --tail 100

      iptrec show trace.db --chain filter/FORWARD,DOCKER-USER --json
    """
    from iptrec.answers import select
    from iptrec.cli import recordings
    from iptrec.cli.absent import NOTHING, nothing
    from iptrec.cli.output import colours
    from iptrec.views import text
    from iptrec.views.timestamps import Clock

    _check(brief=brief, classic=classic, limit=limit, tail=tail, follow=follow)
    layout = text.Layout(
        colour=colours(color, output),
        phys=phys,
        ct=ct,
        rules=rules,
        iface_changes=iface_changes,
        verbose=verbose,
        clock=Clock(utc=chosen.utc, exact=verbose),
    )
    terminal = output == "-" and sys.stdout.isatty() and not follow
    form = printing.form(brief, classic=classic, choose=terminal and not verbose)
    shown: int | None = None  # where the pager was quit
    verdicts: Counter[str] = Counter()
    look_as_nobody(held)
    if follow and chosen.more:
        raise UsageError("--follow waits for more of one recording; give one")
    with recordings.opened(
        recording, *chosen.more, held=held, index=not follow, merged=True
    ) as source:
        with _stream(
            output, [recording, *chosen.more], mode, grows=follow, paged=terminal and pager
        ) as stream:
            conditions = chosen.of(source)
            everything = not (chosen.filter or conditions)
            packets = source.packets(chosen.filter, **conditions)
            give_up_rights(held, parent, behind_others=quiet)
            if orphans:
                if not everything or follow or limit or tail:
                    raise UsageError(f"--orphans shows {_ORPHANS}; leave the rest out")
                return _show_orphans(source, stream, layout.clock, json=json)
            places = select.places(source.rows, which.chains(chosen.chain))
            alone = chosen.packet is not None
            printer = printing.Printer(
                source, stream, layout, form, places, alone=alone, grows=follow
            )
            taken = packets.columns()
            growing = taken.follow(while_read(source.ticks(), stream)) if follow else taken
            if json and not (follow or places or limit or tail):
                shown = printer.columns(taken)
            else:
                found = taken.last(tail) if tail else itertools.islice(growing, limit)
                found = _counted(found, verdicts) if tally else found
                shown = printer.json(found) if json else printer.text(found)
        if tally:
            tell_tally(verdicts, source.rows)
        none = shown == 0
        if not quiet:
            remarks = [printing.CHOSE_BRIEF] if printer.chose_brief else []
            if none and held is None:
                remarks.append(nothing(source, chosen))
            elif none and not everything:  # beside a recorder nothing more can be loaded
                remarks.append(NOTHING)
            remarks += recordings.flaws(source, taken.unjudged, trace=held is not None)
            recordings.tell("show", remarks)
        return EXIT_NO if none else EXIT_DONE


def _counted(packets: Iterable[Traversal], verdicts: Counter[str]) -> Iterator[Traversal]:
    """The same packets, whose verdicts are counted as they pass."""
    for one in packets:
        verdicts[one.verdict] += 1
        yield one


def _check(
    *, brief: bool | None, classic: bool, limit: int | None, tail: int | None, follow: bool
) -> None:
    if brief and classic:
        raise UsageError("--brief and --classic are two layouts; choose one")
    if limit and tail:
        raise UsageError("--limit has the first packets, --tail the last; choose one")
    if tail and follow:
        raise UsageError("--tail has the last packets, and --follow waits for more; choose one")


@contextlib.contextmanager
def _stream(
    output: str, recording: list[str], mode: str, *, grows: bool, paged: bool
) -> Iterator[TextIO]:
    """Where the packets go."""
    from iptrec.cli import output as files

    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(files.opened(output, recording, mode, grows=grows))
        if paged:
            from iptrec.cli import pager

            stream = stack.enter_context(pager.paged())
        yield stream


def _show_orphans(recording: Recording, stream: TextIO, clock: Clock, *, json: bool) -> int:
    from iptrec.answers.orphans import orphans
    from iptrec.views.orphans import as_json, as_text

    found = False
    for orphan in orphans(recording.rows):
        stream.write((as_json(orphan) if json else as_text(orphan, clock)) + "\n")
        found = True
    if not found:
        print("iptrec show: every event belongs to a packet", file=sys.stderr)
    return EXIT_DONE if found else EXIT_NO
