"""``iptrec info``."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.errors import EXIT_DONE


def info(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object (schemas/).")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is stdout.")] = "-",
) -> int:
    """What is in a recording, how complete it is, and whether it was closed cleanly.

    Example:

      iptrec info trace.db
    """
    from iptrec.cli import recordings
    from iptrec.cli.output import opened
    from iptrec.views.info import as_json, as_text

    with recordings.opened(recording) as source, opened(output, recording) as stream:
        running, summary = source.running, source.summary()
        if json:
            stream.write(as_json(source.rows, summary, running=running) + "\n")
        else:
            stream.write(as_text(source.rows, summary, running=running))
    return EXIT_DONE
