"""``iptrec report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli import selection as which
from iptrec.cli.output import Mode
from iptrec.cli.several import HELP
from iptrec.errors import EXIT_DONE, EXIT_NO

if TYPE_CHECKING:
    from iptrec.api import Recording
    from iptrec.views.report import Answers


@which.selection(without=("packet", "path"))
def report(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="The page to be made; - is stdout."),
    ],
    chosen: which.Chosen = which.NOTHING_TYPED,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    mode: Mode = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bar, no remarks.")
    ] = False,
) -> int:
    """Write a page of HTML that shows it all in any browser.

    One file that loads nothing: how complete the recording is, verdicts over time, the flow of packets through
    hooks and tables, paths, packets with their steps and why they ended so, rules with what hit them, changes
    of the rules, losses. It stays under 5 MB; what it leaves out of a long recording it says.
    Exit status 1 when nothing fits the selection.

    Examples:

      iptrec report trace.db -o report.html

      iptrec report trace.db -o drops.html --verdict DROP
    """
    from iptrec.cli import recordings
    from iptrec.cli.absent import nothing
    from iptrec.cli.output import exported
    from iptrec.views.report import page

    with recordings.opened(recording, *chosen.more, bar=not quiet, merged=True) as source:
        with exported(output, [recording, *chosen.more], force=force, mode=mode) as stream:
            every = [recording, *chosen.more]
            name = ", ".join("stdin" if one == "-" else Path(one).name for one in every)
            answers = answers_of(source, name, chosen)
            stream.write(page(answers).encode())
        none = "" if answers.packets.count or not answers.selected else nothing(source, chosen)
        if not quiet:
            recordings.tell_flaws("report", source, answers.packets.unjudged, none)
    return EXIT_NO if none else EXIT_DONE


def answers_of(source: Recording, name: str, chosen: which.Chosen) -> Answers:
    """All that the page of a recording tells; ``name``: of its file."""
    from iptrec.answers.diff_objects import compare_all
    from iptrec.answers.hits import packets_that_hit
    from iptrec.answers.nothing import nothing
    from iptrec.cli.info import told_of
    from iptrec.cli.operands import FIRST_NS, Operand, at
    from iptrec.recording.hosts import hosts
    from iptrec.views.report import Answers
    from iptrec.views.timestamps import Clock

    conditions = chosen.of(source)
    packets = source.packets(chosen.filter, **conditions).columns()
    several = hosts(source.rows)
    # Changes of the rules are told of one host.
    before, after = (
        (Operand({}), Operand({})) if several else (at(source, FIRST_NS), at(source, None))
    )
    differences = compare_all(before, after) if not several else []
    return Answers(
        name=name,
        recording=source.rows,
        summary=source.summary(chosen.filter, **conditions),
        rules=source.rules(chosen.filter, **conditions),
        packets=packets,
        before=before.rulesets,
        after=after.rulesets,
        differences=differences,
        hits=packets_that_hit(source.rows, differences) if differences else {},
        selected=which.in_words(chosen),
        none=nothing(source.rows),
        running=source.running,
        size=source.size,
        clock=Clock(utc=chosen.utc),
        hosts=told_of(source.rows, packets.selection) if several else (),
    )
