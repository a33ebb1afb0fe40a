"""``iptrec paths``."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.cli.output import Jobs
from iptrec.cli.several import HELP
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError


@which.selection(without=("packet", "path"))
def paths(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)],
    chosen: which.Chosen,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line (schemas/).")
    ] = False,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="ORDER",
            help="verdict (DROP and REJECT first, the default), packets (the default of --json), bytes, or"
            " first (in order of the first packet).",
        ),
    ] = "",
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
    jobs: Jobs = 1,
) -> int:
    """Group packets by the path that they took.

    Paths where packets were dropped, rejected or discarded come first and have --> at the margin, then those
    with the most packets; each with its first packet. iptrec show --path K lists the packets of path K. Exit
    status 1 when nothing fits the selection.

    Examples:

      iptrec paths trace.db

      iptrec paths trace.db --sort bytes

      iptrec paths trace.db --verdict DROP tcp port 1242
    """
    from iptrec.answers.path_counts import ORDERS
    from iptrec.cli import recordings
    from iptrec.cli.absent import nothing
    from iptrec.cli.output import opened, width
    from iptrec.views.paths import as_json, as_text
    from iptrec.views.timestamps import Clock

    order = sort or ("packets" if json else "verdict")
    if order not in ORDERS:
        raise UsageError(f"--sort {order!r}: must be one of {', '.join(ORDERS)}")
    clock, columns = Clock(utc=chosen.utc), width(output)
    with (
        recordings.opened(recording, *chosen.more, index=True, jobs=jobs, merged=True) as source,
        opened(output, [recording, *chosen.more]) as stream,
    ):
        found = source.paths(chosen.filter, **chosen.of(source))
        for one in sorted(found, key=ORDERS[order]):
            stream.write(as_json(one) + "\n" if json else as_text(one, clock, columns))
        none = "" if found else nothing(source, chosen)
        recordings.tell_flaws("paths", source, found.unjudged, none)
    return EXIT_DONE if found else EXIT_NO
