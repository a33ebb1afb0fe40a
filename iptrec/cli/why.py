"""``iptrec why``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE, EXIT_NO


def why(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    words: which.Words = None,
    number: which.Number = None,
    path: which.PathNumber = None,
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
    color: Annotated[str, typer.Option("--color", help="auto, always or never.")] = "auto",
) -> int:
    """Explain what became of packets: who decided, and which rules did not match before, and why not.

    The kernel tells only of rules that match. What a rule wants is compared with the packet; where that
    depends on what only the kernel knew (connection tracking, limits, sets), it says so.

    Examples:

      iptrec why trace.db --packet 3

      iptrec why trace.db --verdict DROP host 10.0.0.5
    """
    from iptrec.answers.why import explain
    from iptrec.cli.index import remembered
    from iptrec.cli.output import colours, opened, tell_flaws
    from iptrec.recording.reader import Reader
    from iptrec.views.why import as_json, as_text

    shown = 0
    colour = colours(color, output)
    with (
        Reader(recording) as reader,
        opened(output, recording) as stream,
        remembered(reader) as bookmarks,
    ):
        selection = which.make(
            reader, words=words, interfaces=interfaces, chains=chains, rules=rule_numbers,
            verdicts=verdicts, netns=netns, whole=whole, mark=mark, since=since, until=until,
            number=number, path=path,
        )  # fmt: skip
        for explained in explain(reader, selection, bookmarks):
            if json:
                stream.write(as_json(explained) + "\n")
            else:
                stream.write("\n" if shown else "")
                for line in as_text(explained, colour=colour):
                    stream.write(line + "\n")
            shown += 1
        tell_flaws("why", reader)
    if not shown:
        print("iptrec why: no packet fits", file=sys.stderr)
    return EXIT_DONE if shown else EXIT_NO
