"""``iptrec info``."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.errors import EXIT_DONE


def info(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object (schemas/).")] = False,
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
    from iptrec.cli.output import opened
    from iptrec.views.info import as_json, as_text

    with recordings.opened(recording) as source, opened(output, recording) as stream:
        running, summary = source.running, source.summary()
        if json:
            stream.write(as_json(source.rows, summary, running=running) + "\n")
        else:
            none = nothing(source.rows)
            stream.write(as_text(source.rows, summary, none, running=running))
    return EXIT_DONE
