"""``iptrec rules``."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli import selection as which
from iptrec.cli.several import HELP
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from iptrec.answers.rules import TableCount


@which.selection(without=("chain", "rule", "packet", "path"))
def rules(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)],
    table: Annotated[
        str,
        typer.Option(
            "--table", callback=which.given, metavar="TABLE,...", help="Rules of these tables."
        ),
    ] = "",
    chains: Annotated[
        str,
        typer.Option(
            "--chain",
            callback=which.given,
            metavar="TABLE/CHAIN,...",
            help="Rules of these chains.",
        ),
    ] = "",
    hit: Annotated[
        bool | None, typer.Option("--hit/--unused", help="Rules that were hit, or that were not.")
    ] = None,
    chosen: which.Chosen = which.NOTHING_TYPED,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a chain and line (schemas/).")
    ] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
) -> int:
    """Print the rules, with the packets that hit them.

    The rules are those of the end of the recording, a line each: number, packets and bytes that hit it, times
    of the first and the last of them (of the day that the first line tells). A chain's line has its policy,
    and in brackets the packets and bytes that came to its end. Rules that an earlier one makes unreachable
    are marked, and so are rules that were hit and are gone by the end; ? are hits from while the rules of the
    chain changed or were not known. A rule where packets may pass untraced is neither hit nor unused as long
    as no packet was seen there. Exit status 1 when no rule fits.

    Examples:

      iptrec rules trace.db --hit

      iptrec rules trace.db --table filter --unused

      iptrec rules trace.db --table "inet fw"
    """
    from iptrec.answers.select import places, tables
    from iptrec.cli import recordings
    from iptrec.cli.output import opened, width
    from iptrec.views.rules import as_json, as_text
    from iptrec.views.timestamps import Clock

    clock = Clock(utc=chosen.utc)
    files = [recording, *chosen.more]
    with (
        recordings.opened(*files, merged=True) as source,
        opened(output, files) as stream,
    ):
        conditions = chosen.of(source)
        wanted = places(source.rows, which.chains(chains))
        named = {one: tables(source.rows, one) for one in which.listed(table)}
        counted = source.rules(chosen.filter, **conditions)
        _check(named, {one.table for one in counted})
        day = clock.day(source.facts.started_ns)
        meant = frozenset().union(*named.values())
        limited = [_limited(one, meant, wanted, hit) for one in counted]
        shown = [one for one in limited if one.chains]
        if json:
            stream.writelines(line + "\n" for one in shown for line in as_json(one))
        elif shown:
            lines = as_text(shown, clock, day, width(output))
            stream.writelines(line + "\n" for line in lines)
        if not shown:
            print(f"iptrec rules: no rule fits{_missing(wanted, counted)}", file=sys.stderr)
        recordings.tell_flaws("rules", source, counted.unjudged, untold=counted.untold)
    return EXIT_DONE if shown else EXIT_NO


def _check(asked: dict[str, frozenset[str]], there: set[str]) -> None:
    if unknown := [name for name, meant in asked.items() if not meant & there]:
        names = ", ".join(map(repr, sorted(there))) or "none"
        raise UsageError(f"--table {min(unknown)!r}: the tables of this recording are {names}")


def _missing(wanted: frozenset[tuple[str, str]], counted: list[TableCount]) -> str:
    """The chains that are asked for and not there, with those that are."""
    from iptrec.answers.selection import is_among
    from iptrec.cli.absent import some
    from iptrec.views.escape import printable

    there = [(one.table, chain) for one in counted for chain in one.chains]
    if not wanted or any(is_among(wanted, *one) for one in there):
        return ""
    names = {f"{table}/{chain}" for table, chain in there}
    return printable(f"; the chains of this recording are {some(names)}") if names else ""


def _limited(
    table: TableCount,
    tables: frozenset[str],
    places: frozenset[tuple[str, str]],
    hit: bool | None,
) -> TableCount:
    """The chains and rules that were asked for; a chain without any of them is left out."""
    from iptrec.answers.selection import is_among

    if tables and table.table not in tables:
        return replace(table, chains={})
    chains = {}
    for name, (policy, rules) in table.chains.items():
        if places and not is_among(places, table.table, name):
            continue
        kept = [
            one
            for one in rules
            if hit is None or (bool(one.count.packets) if hit else table.unused(one))
        ]
        if hit is None or kept:
            chains[name] = policy, kept
    return replace(table, chains=chains)
