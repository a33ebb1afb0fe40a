"""``iptrec info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli import selection as which
from iptrec.cli.several import HELP
from iptrec.errors import EXIT_DONE, EXIT_NO

if TYPE_CHECKING:
    from typing import TextIO

    from iptrec.answers.selection import Selection
    from iptrec.api import Recording
    from iptrec.recording.rows import Recording as Rows
    from iptrec.views.hosts import Told


@which.selection(without=("packet", "path"))
def info(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)],
    chosen: which.Chosen,
    json: Annotated[bool, typer.Option("--json", help="One JSON object (schemas/).")] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
) -> int:
    """Tell what is in a recording, and how complete it is.

    With a selection verdicts, protocols, interfaces, talkers, drop reasons and what was not seen again are of
    its packets, all else is of the whole recording. Exit status 1 when nothing fits the selection.

    Examples:

      iptrec info trace.db

      iptrec info trace.db --verdict DROP
    """
    from iptrec.answers.nothing import nothing
    from iptrec.cli import absent, recordings
    from iptrec.cli.output import opened, width
    from iptrec.recording.hosts import hosts
    from iptrec.views.info import as_json, as_text
    from iptrec.views.timestamps import Clock

    files = [recording, *chosen.more]
    with (
        recordings.opened(*files, merged=True) as source,
        opened(output, files) as stream,
    ):
        if hosts(source.rows):
            return _several(source, chosen, stream, json=json, columns=width(output))
        running, size = source.running, source.size
        summary = source.summary(chosen.filter, **chosen.of(source))
        if json:
            text = as_json(source.rows, summary, running=running, size=size) + "\n"
        else:
            none, clock, columns = nothing(source.rows), Clock(utc=chosen.utc), width(output)
            text = as_text(
                source.rows, summary, clock, none=none, running=running, size=size, width=columns
            )
        stream.write(text)
        if summary.selected is not None:
            without = "" if summary.selected else absent.nothing(source, chosen)
            recordings.tell_flaws("info", source, summary.unjudged, without)
    return EXIT_NO if summary.selected == 0 else EXIT_DONE


def _several(
    source: Recording,
    chosen: which.Chosen,
    stream: TextIO,
    *,
    json: bool,
    columns: int | None,
) -> int:
    """Of each of several recordings what is told of it alone."""
    from iptrec.answers.clocks import clocks
    from iptrec.answers.select import selection
    from iptrec.cli import absent, recordings
    from iptrec.views import hosts as views
    from iptrec.views.timestamps import Clock

    conditions = chosen.of(source)
    selected = None
    if chosen.filter or conditions:
        selected = selection(source.rows, chosen.filter, conditions)
    clock = Clock(utc=chosen.utc)
    told = told_of(source.rows, selected)
    apart = clocks(source.rows)
    text = views.as_json(told, apart) if json else views.as_text(told, apart, clock, columns)
    stream.write(text)
    count = sum(one.summary.selected or 0 for one in told)
    if selected is None:
        return EXIT_DONE
    without = "" if count else absent.nothing(source, chosen)
    recordings.tell_flaws("info", source, sum(one.summary.unjudged for one in told), without)
    return EXIT_DONE if count else EXIT_NO


def told_of(rows: Rows, selected: Selection | None) -> list[Told]:
    """Of each of several recordings what there is to tell of it alone; ``selected``: see `summarize`."""
    from iptrec.answers.nothing import nothing
    from iptrec.answers.summary import summarize
    from iptrec.recording.hosts import Alone, hosts
    from iptrec.views.hosts import Told

    if selected is not None and selected.everything:
        selected = None
    return [
        Told(one, alone := Alone(one), summarize(alone, selected), nothing(alone))
        for one in hosts(rows)
    ]
