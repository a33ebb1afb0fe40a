"""``iptrec query``."""

from __future__ import annotations

import csv
import itertools
import json as to_json
import math
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from iptrec.cli.output import Mode
from iptrec.cli.several import HELP, split
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

_SAMPLE = 1000  # rows whose values tell the width of a column
_SAMPLE_SIZE = 1 << 20  # characters, of which some more rows are not looked at
_WIDEST = 60
_MOST_MEMORY = 256 << 20  # bytes that SQLite may take
_INFINITE = (math.inf, -math.inf)  # JSON has no number for them

AsCsv = Annotated[bool, typer.Option("--csv", help="Comma separated values.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a row.")]
Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")]
TWO_FORMS: Final = "--csv and --json are two different outputs; ask for one"


def query(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)] = "",
    sql: Annotated[
        list[str] | None,
        typer.Argument(metavar="SQL", help="One SELECT, in SQLite's language."),
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="What tables, columns and views there are.")
    ] = False,
    as_csv: AsCsv = False,
    json: AsJson = False,
    output: Output = "-",
    mode: Mode = "",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="Give up a query after 500ms, 30s, 5m.")
    ] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> int:
    r"""Ask a recording in SQL.

    It has the tables that iptrec export sqlite makes. Only what the query reads is put together. Exit status
    1 when there is no row.

    The table and --csv show control, escape and bidirectional characters as \x1b, \u202e; --json keeps
    texts exact, and has null for an infinite number. Texts are not made safe for spreadsheets: import the
    columns of --csv as text, or what begins with = + - @ is taken for a formula.

    Examples:

      iptrec query --tables

      iptrec query trace.db "SELECT src, count(*) FROM drops GROUP BY src ORDER BY 2 DESC LIMIT 10"

      iptrec query trace.db "SELECT * FROM rule_hits WHERE packets = 0" --csv
    """
    from iptrec.cli import recordings
    from iptrec.cli.output import opened
    from iptrec.cli.record import seconds
    from iptrec.views.sqlite import VIEWS
    from iptrec.views.tables import described

    if tables:
        views = "".join(f"\n{name}: {about}" for name, (about, _) in VIEWS.items())
        print(f"{described()}# Views\n{views}")
        return EXIT_DONE
    *more, asked = sql or [""]
    if not (recording and asked):
        raise UsageError('query takes a recording and a query: iptrec query trace.db "SELECT ..."')
    if as_csv and json:
        raise UsageError(TWO_FORMS)
    limit_s = seconds(timeout, "--timeout") if timeout else None
    files, rest = split(recording, more)
    if rest:
        raise UsageError(f"{rest[0]} is not an iptrec recording; put the query in quotes")
    with recordings.opened(*files, bar=not quiet, merged=True) as source:
        found = source.query(asked, timeout_s=limit_s, heap_limit=_MOST_MEMORY)
    with opened(output, files, mode) as stream:
        first = list(itertools.islice(found, 1))
        write = write_csv if as_csv else write_json if json else write_table
        write(stream, found.columns, itertools.chain(first, found))
    return EXIT_DONE if first else EXIT_NO


def write_csv(stream: TextIO, names: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Comma separated values, the names first."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_cells(names))
    writer.writerows(map(_cells, rows))


def write_json(stream: TextIO, names: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """One JSON object a row."""
    for row in rows:
        values = (None if value in _INFINITE else _plain(value) for value in row)
        found = dict(zip(names, values, strict=True))
        stream.write(to_json.dumps(found, allow_nan=False) + "\n")


def write_table(stream: TextIO, names: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """Columns side by side; what is longer than its column pushes the others to the right."""
    sample: list[list[str]] = []
    room = _SAMPLE_SIZE
    for row in map(_cells, itertools.islice(rows, _SAMPLE)):
        sample.append(row)
        room -= sum(map(len, row))
        if room < 0:
            break
    widths = [
        min(_WIDEST, max(len(one) for one in column)) for column in zip(names, *sample, strict=True)
    ]
    for line in itertools.chain(
        [_cells(names), ["-" * width for width in widths]], sample, map(_cells, rows)
    ):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        stream.write("  ".join(padded).rstrip() + "\n")


def _cells(row: Sequence[Any]) -> list[str]:
    """Texts that are safe on a terminal."""
    from iptrec.views.escape import printable

    return ["" if value is None else printable(str(_plain(value))) for value in row]


def _plain(value: object) -> object:
    """A value as text has it."""
    return value.hex() if isinstance(value, bytes) else value
