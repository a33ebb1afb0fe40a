"""``iptrec paths``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE, EXIT_NO


def paths(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    words: which.Words = None,
    chains: which.Chains = "",
    rule_numbers: which.RuleNumbers = "",
    interfaces: which.Interfaces = "",
    verdicts: which.Verdicts = "",
    netns: which.Netns = "",
    whole: which.Whole = None,
    mark: which.Mark = "",
    since: which.Since = "",
    until: which.Until = "",
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line (schemas/).")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is stdout.")] = "-",
) -> int:
    """Group the packets by the way that they took; the path with the most packets comes first.

    iptrec show --path K lists the packets of path K. Exit status 1 when nothing fits the selection.

    Examples:

      iptrec paths trace.db

      iptrec paths trace.db --verdict DROP tcp port 443
    """
    from iptrec.answers.path_counts import count_paths
    from iptrec.cli.index import remembered
    from iptrec.cli.output import opened, tell_flaws
    from iptrec.recording.reader import Reader
    from iptrec.views.paths import as_json, as_text

    with (
        Reader(recording) as reader,
        opened(output, recording) as stream,
        remembered(reader) as bookmarks,
    ):
        selection = which.make(
            reader, words=words, interfaces=interfaces, chains=chains, rules=rule_numbers,
            verdicts=verdicts, netns=netns, whole=whole, mark=mark, since=since, until=until,
        )  # fmt: skip
        found = count_paths(reader, selection, bookmarks)
        for number, path, count in found:
            stream.write(
                as_json(number, path, count) + "\n" if json else as_text(number, path, count)
            )
        tell_flaws("paths", reader)
    if not found:
        print("iptrec paths: no packet fits", file=sys.stderr)
    return EXIT_DONE if found else EXIT_NO
