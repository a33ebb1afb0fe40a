"""``iptrec rules``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli import selection as which
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from iptrec.answers.rules import TableCount


def rules(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    words: which.Words = None,
    table: Annotated[
        str, typer.Option("--table", metavar="TABLE,...", help="Rules of these tables.")
    ] = "",
    chains: Annotated[
        str, typer.Option("--chain", metavar="TABLE/CHAIN,...", help="Rules of these chains.")
    ] = "",
    hit: Annotated[
        bool | None, typer.Option("--hit/--unused", help="Rules that were hit, or that were not.")
    ] = None,
    interfaces: which.Interfaces = "",
    verdicts: which.Verdicts = "",
    netns: which.Netns = "",
    whole: which.Whole = None,
    mark: which.Mark = "",
    since: which.Since = "",
    until: which.Until = "",
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a chain and line (schemas/).")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="A file; - is stdout.")] = "-",
) -> int:
    """Print the rules as they last were, with the packets of the recording that hit them.

    Number, packets, time of the first hit, the rule. Rules that an earlier one makes unreachable are
    marked, and so are rules that were hit and are gone by the end. Exit status 1 when no rule fits.

    Examples:

      iptrec rules trace.db --hit

      iptrec rules trace.db --table filter --unused

      iptrec rules trace.db --table "inet fw"
    """
    from iptrec.answers.rules import count_rules
    from iptrec.cli.output import opened, tell_flaws
    from iptrec.recording.reader import Reader
    from iptrec.views.rules import as_json, as_text

    shown = False
    with Reader(recording) as reader, opened(output, recording) as stream:
        selection = which.make(
            reader, words=words, interfaces=interfaces, verdicts=verdicts, netns=netns, whole=whole,
            mark=mark, since=since, until=until,
        )  # fmt: skip
        places = which.places(reader, which.listed(chains))
        tables = {one: which.tables(reader, one) for one in which.listed(table)}
        counted = count_rules(reader, selection)
        _check(tables, {one.table for one in counted})
        for one in counted:
            limited = _limited(one, frozenset().union(*tables.values()), places, hit)
            if not limited.chains:
                continue
            for line in (as_json if json else as_text)(limited):
                stream.write(line + "\n")
            shown = True
        tell_flaws("rules", reader)
    if not shown:
        print("iptrec rules: no rule fits", file=sys.stderr)
    return EXIT_DONE if shown else EXIT_NO


def _check(asked: dict[str, frozenset[str]], there: set[str]) -> None:
    if unknown := [name for name, meant in asked.items() if not meant & there]:
        names = ", ".join(map(repr, sorted(there))) or "none"
        raise UsageError(f"--table {min(unknown)!r}: the tables of this recording are {names}")


def _limited(
    table: TableCount,
    tables: frozenset[str],
    places: frozenset[tuple[str, str]],
    hit: bool | None,
) -> TableCount:
    """The chains and rules that were asked for; a chain without any of them is left out."""
    if tables and table.table not in tables:
        return replace(table, chains={})
    chains = {}
    for name, (policy, rules) in table.chains.items():
        if places and (table.table, name) not in places:
            continue
        kept = [one for one in rules if hit is None or bool(one.count.packets) == hit]
        if hit is None or kept:
            chains[name] = policy, kept
    return replace(table, chains=chains)
