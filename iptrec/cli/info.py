"""``iptrec info``."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE


def info(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object (schemas/).")] = False,
    utc: which.Utc = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
) -> int:
    """Tell what is in a recording, and how complete it is.

    Example:

      iptrec info trace.db
    """
    from iptrec.answers.nothing import nothing
    from iptrec.cli import recordings
    from iptrec.cli.output import opened, width
    from iptrec.views.info import as_json, as_text
    from iptrec.views.timestamps import Clock

    with recordings.opened(recording) as source, opened(output, recording) as stream:
        running, summary, size = source.running, source.summary(), source.size
        if json:
            text = as_json(source.rows, summary, running=running, size=size) + "\n"
        else:
            none, clock, columns = nothing(source.rows), Clock(utc=utc), width(output)
            text = as_text(
                source.rows, summary, clock, none=none, running=running, size=size, width=columns
            )
        stream.write(text)
    return EXIT_DONE
