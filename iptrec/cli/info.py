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
    from iptrec.answers.summary import summarize
    from iptrec.cli.output import opened
    from iptrec.recording.reader import Reader
    from iptrec.views.info import as_json, as_text

    with Reader(recording) as reader, opened(output, recording) as stream:
        summary = summarize(reader)
        stream.write(as_json(reader, summary) + "\n" if json else as_text(reader, summary))
    return EXIT_DONE
