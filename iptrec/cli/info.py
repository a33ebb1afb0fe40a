"""``iptrec info``."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE, EXIT_NO


@which.selection(without=("packet", "path"))
def info(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
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
    from iptrec.views.info import as_json, as_text
    from iptrec.views.timestamps import Clock

    with recordings.opened(recording) as source, opened(output, recording) as stream:
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
