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
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is stdout.")] = "-",
) -> int:
    """What is in a recording, how complete it is, and whether it was closed cleanly.

    Example:

      iptrec info trace.db
    """
    from iptrec.cli import recordings
    from iptrec.cli.output import opened
    from iptrec.views.info import as_json, as_text
    from iptrec.views.timestamps import Clock

    with recordings.opened(recording) as source, opened(output, recording) as stream:
        summary = source.summary()
        stream.write(
            as_json(source.rows, summary) + "\n"
            if json
            else as_text(source.rows, summary, Clock(utc=utc))
        )
    return EXIT_DONE
