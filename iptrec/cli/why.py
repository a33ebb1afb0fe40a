"""``iptrec why``."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE, EXIT_NO


@which.selection(first=("packet", "path"))
def why(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    chosen: which.Chosen,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line (schemas/).")
    ] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
    color: Annotated[
        str, typer.Option("--color", metavar="WHEN", help="auto, always or never.")
    ] = "auto",
) -> int:
    """Explain which rule decided, and why no earlier one did.

    The kernel reports only rules that match. What a rule wants is compared with the packet; where that
    depends on what only the kernel knew (connection tracking, limits, sets), it says so.

    Examples:

      iptrec why trace.db --packet 3

      iptrec why trace.db --verdict DROP host 10.0.1.2
    """
    from iptrec.cli import recordings
    from iptrec.cli.absent import nothing
    from iptrec.cli.output import colours, opened
    from iptrec.views.why import as_json, as_text

    shown = 0
    colour = colours(color, output)
    with recordings.opened(recording, index=True) as source, opened(output, recording) as stream:
        explanations = source.explain(chosen.filter, **chosen.of(source))
        for explanation in explanations:
            if json:
                stream.write(as_json(explanation) + "\n")
            else:
                stream.write("\n" if shown else "")
                for line in as_text(explanation, colour=colour):
                    stream.write(line + "\n")
            shown += 1
        none = "" if shown else nothing(source, chosen)
        recordings.tell_flaws("why", source, explanations.unjudged, none)
    return EXIT_DONE if shown else EXIT_NO
