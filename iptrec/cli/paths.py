"""``iptrec paths``."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE, EXIT_NO


@which.selection(without=("packet", "path"))
def paths(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    chosen: which.Chosen,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line (schemas/).")
    ] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
) -> int:
    """Group packets by the path that they took.

    The path with the most packets comes first. iptrec show --path K lists the packets of path K. Exit status
    1 when nothing fits the selection.

    Examples:

      iptrec paths trace.db

      iptrec paths trace.db --verdict DROP tcp port 1242
    """
    from iptrec.cli import recordings
    from iptrec.cli.absent import nothing
    from iptrec.cli.output import opened
    from iptrec.views.paths import as_json, as_text
    from iptrec.views.timestamps import Clock

    clock = Clock(utc=chosen.utc)

    with recordings.opened(recording, index=True) as source, opened(output, recording) as stream:
        found = source.paths(chosen.filter, **chosen.of(source))
        for one in found:
            stream.write(as_json(one) + "\n" if json else as_text(one, clock))
        none = "" if found else nothing(source, chosen)
        recordings.tell_flaws("paths", source, found.unjudged, none)
    return EXIT_DONE if found else EXIT_NO
