"""``iptrec lake``."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from iptrec.cli.output import Mode
from iptrec.cli.query import TWO_FORMS, AsCsv, AsJson, Output
from iptrec.cli.selection import Utc
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.lake.answer import Progress as Told
    from iptrec.lake.engines import Engine
    from iptrec.lake.question import Question, Value

_PATIENCE_S: Final = 1.0
_LARGEST: Final = 1 << 63


def lake(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="Its name.")] = "",
    path: Annotated[str, typer.Argument(metavar="LAKE/", help="The lake's directory.")] = "",
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Parameters of the question.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="NAME", help="Who answers: duckdb, clickhouse or spark."),
    ] = "duckdb",
    master: Annotated[
        str,
        typer.Option("--master", metavar="URL", help="Spark's cluster, such as spark://host:7077."),
    ] = "",
    as_csv: AsCsv = False,
    json: AsJson = False,
    output: Output = "-",
    mode: Mode = "",
    utc: Utc = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> int:
    """Ask many recordings of many hosts at once.

    Without a question, list them; without a lake, print the SQL of one, with its parameters. A lake is made
    by iptrec export parquet LAKE/ A.db B.db. Exit status 1 when there is no row.

    DuckDB (pip install 'iptrec[lake]') and ClickHouse ('iptrec[clickhouse]') work in this process, Apache Spark
    ('iptrec[spark]', and Java) on this machine or, with --master, on a cluster that sees the same directory.
    The answers are the same.

    Columns that end in _ns are ns since 1970 in --csv and --json; the table has them as times in UTC.

    Examples:

      iptrec lake

      iptrec lake drops lake/ limit=10

      iptrec lake changed lake/ time=2026-11-24T00:00:00Z --json

      iptrec lake unhit lake/ --engine spark --master spark://10.0.0.7:7077
    """
    from iptrec.lake import engines
    from iptrec.lake.question import question as named
    from iptrec.lake.question import questions

    asked = engines.engine(engine, master)
    if as_csv and json:
        raise UsageError(TWO_FORMS)
    if not question:
        width = max(map(len, questions()))
        for one in questions().values():
            print(f"{one.name:{width}}  {one.about}")
        return EXIT_DONE
    if not path:
        print(named(question).text, end="")
        return EXIT_DONE
    found = named(question)
    sql = found.sql(_values(found, values or [], utc=utc), asked.literal)
    return _ask(found.name, asked, path, sql, _Form(as_csv, json, output, mode, quiet))


class _Form:
    """How the answer is printed."""

    def __init__(self, as_csv: bool, json: bool, output: str, mode: str, quiet: bool) -> None:
        self.exact = as_csv or json
        self.as_csv, self.output, self.mode, self.quiet = as_csv, output, mode, quiet


def _ask(title: str, engine: Engine, path: str, sql: str, form: _Form) -> int:
    from pathlib import Path

    from iptrec.cli import query
    from iptrec.cli.output import opened
    from iptrec.cli.recordings import tell
    from iptrec.lake.whole import astray

    with contextlib.ExitStack() as stack:
        progress = None if form.quiet else stack.enter_context(_bar(title))
        ask = stack.enter_context(engine.opened(Path(path), progress))
        tell("lake", astray(Path(path), ask))
        answer = ask(sql)
        first = list(itertools.islice(answer.rows, 1))
        rows = itertools.chain(first, answer.rows)
        with opened(form.output, "-", form.mode) as stream:
            if form.exact:
                (query.write_csv if form.as_csv else query.write_json)(stream, answer.columns, rows)
            else:
                query.write_table(stream, *_in_words(answer.columns, rows))
    return EXIT_DONE if first else EXIT_NO


def _in_words(
    names: Sequence[str], rows: Iterator[tuple[Any, ...]]
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Names and rows with times instead of nanoseconds."""
    from iptrec.views.packet_json import iso_time

    timed = [name.endswith("_ns") for name in names]
    shown = [
        name.removesuffix("_ns") if is_time else name
        for name, is_time in zip(names, timed, strict=True)
    ]
    return shown, (
        tuple(
            iso_time(value) if is_time and value is not None else value
            for value, is_time in zip(row, timed, strict=True)
        )
        for row in rows
    )


def _values(question: Question, typed: list[str], *, utc: bool) -> dict[str, Value]:
    """The values of NAME=VALUE. Raises `UsageError` for what is none."""
    found: dict[str, Value] = {}
    for word in typed:
        name, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r}: expected NAME=VALUE; see iptrec lake {question.name}")
        if name in found:
            raise UsageError(f"{name} is given twice")
        kind = question.parameter(name).kind
        try:
            found[name] = (
                text
                if kind == "text"
                else _number(text)
                if kind == "number"
                else _time(text, utc=utc)
            )
        except (ValueError, OverflowError, OSError):
            wanted = (
                "a number, such as 10"
                if kind == "number"
                else "a time, such as 2026-01-31T10:02:07Z"
            )
            raise UsageError(f"{name}={text!r}: expected {wanted}") from None
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < _LARGEST):
        raise ValueError(text)
    return int(text)


def _time(text: str, *, utc: bool) -> int:
    """ISO 8601, or ns since 1970."""
    from iptrec.cli.moments import epoch_ns

    return (
        _number(text) if text.isdigit() and len(text) > len("20260131") else epoch_ns(text, utc=utc)
    )


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Told | None]:
    """Something that is told how much is done, and shows it on a terminal once it takes long."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn

    bar = Progress(
        "{task.description}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    task = bar.add_task(title, total=None)
    begun = time.monotonic()

    def told(done: float | None) -> None:
        if done is not None:
            bar.update(task, completed=done, total=100)
        if time.monotonic() > begun + _PATIENCE_S:
            bar.start()

    try:
        yield told
    finally:
        bar.stop()
