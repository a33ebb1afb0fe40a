"""``iptrec export sqlite``: the tables as a database of their own, which explains itself."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np
import sqlite_utils

from iptrec.errors import TIMEOUT, RecordingError, UsageError
from iptrec.views.tables import TABLES, Table
from iptrec.views.templates import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from iptrec.files import Draft
    from iptrec.views.filed import Alike, Filed
    from iptrec.views.tables import Row
    from iptrec.views.templates import Values

_READING: Final = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
}  # fmt: skip
_INSTRUCTIONS: Final = 10_000  # of SQLite's machine, between two looks at the clock and for Ctrl-C
_LONGEST: Final = 65 << 20  # bytes of a value; the longest snapshot has 64 MiB
_EXACT: Final = 1 << 63  # numbers from there on are not integers to SQLite
_LONGEST_LITERAL: Final = 1000  # characters
_LONGEST_STATEMENT: Final = (
    200_000  # within SQLite's limits of a statement: 1,000,000 bytes, 32,766 parameters
)
VIEWS: Final = {
    "drops": (
        "Packets that a rule or a policy dropped or rejected, with that rule.",
        """SELECT packets.*, rules.spec AS decided_spec FROM packets LEFT JOIN rules
           ON rules.namespace = packets.namespace AND rules.family = packets.family
           AND rules.table_name = decided_table AND rules.chain = decided_chain AND rules.rule = decided_rule
           AND rules.id IN (SELECT rule_id FROM steps WHERE steps.packet = packets.packet)
           WHERE verdict IN ('DROP', 'REJECT')""",
    ),
    "rule_hits": (
        "Rules with the number of packets that hit them, and when.",
        """SELECT rules.*, count(steps.packet) AS packets, min(steps.time_ns) AS first_ns,
           max(steps.time_ns) AS last_ns FROM rules LEFT JOIN steps ON steps.rule_id = rules.id
           GROUP BY rules.id""",
    ),
    "paths": (
        "The ways that packets took, with how many there were, and the first one.",
        """SELECT path, family, verdict, decided_table, decided_chain, decided_rule,
           count(*) AS packets, min(time_ns) AS first_ns, max(time_ns) AS last_ns,
           min(packet) AS example FROM packets GROUP BY path""",
    ),
    "flows": (
        "Packets by their addresses, ports and verdict.",
        """SELECT family, proto, src, sport, dst, dport, verdict, count(*) AS packets,
           sum(length) AS bytes FROM packets GROUP BY family, proto, src, sport, dst, dport, verdict""",
    ),
}  # fmt: skip


@contextlib.contextmanager
def database(draft: Draft) -> Iterator[sqlite_utils.Database]:
    """A new database with our tables, to be filled, and views. Raises `RecordingError` if it fails."""
    try:
        with contextlib.closing(draft.connect()) as connection:
            made = sqlite_utils.Database(connection, execute_plugins=False)
            # Nobody reads it before it is whole.
            made.execute("PRAGMA journal_mode = OFF")
            made.execute("PRAGMA synchronous = OFF")
            made.execute("PRAGMA locking_mode = EXCLUSIVE")
            made.execute("PRAGMA cache_size = -32768")  # KiB
            made.execute("BEGIN")
            for table in TABLES:
                made.execute(definition(table))
            for name, (about, query) in VIEWS.items():
                made.execute(f"CREATE VIEW {name} AS -- {about}\n{query}")
            yield made
            for table in TABLES:
                for columns in table.indexes:
                    made.table(table.name).create_index(columns)
            if connection.in_transaction:
                made.execute("COMMIT")
    except sqlite3.Error as error:
        raise RecordingError(f"cannot write {draft.place.path}: {error}") from None


def fill(made: sqlite_utils.Database, rows: Iterable[tuple[str, Filed]]) -> None:
    """Insert the rows."""
    cursor: sqlite3.Cursor = made.conn.cursor()
    for _, filed in rows:
        inserts: list[tuple[str, Iterable[Row]] | None] = [None] * filed.places
        plain = _into(filed.table, [", ".join("?" * len(filed.table.columns))])
        for at, some in filed.odd.items():
            inserts[at] = plain, some
        for alike in filed.alike:
            text, values = _statement(filed.table, alike)
            if len(text) > _LONGEST_STATEMENT:
                inserts_of = ((plain, one) for one in alike.each(filed.table))
            else:
                inserts_of = ((text, (one,)) for one in values)
            for at, insert in zip(alike.at.tolist(), inserts_of, strict=True):
                inserts[at] = insert
        for one in filter(None, inserts):
            cursor.executemany(*one)


def _statement(table: Table, alike: Alike) -> tuple[str, Iterable[Row]]:
    """What inserts the rows of one of these packets, and its parameters for each of them.

    To hand a value over to SQLite costs ten times what it takes to repeat one of the statement's own.
    """
    columns: list[Values] = []
    same: dict[Any, int] = {}  # values -> the number of their parameter

    def parameter(values: Values, key: object) -> str:
        if key not in same:
            columns.append(values)
            same[key] = len(columns)
        return f"?{same[key]}"

    def value(column: str, constant: str | int | None, varying: Mapping[str, Values]) -> str:
        if column in varying:
            values = varying[column]
            key = values.tobytes() if isinstance(values, np.ndarray) else id(values)
            return parameter(values, key)
        literal = _literal(constant)
        return literal or parameter([constant] * len(alike.at), ("constant", constant))

    rows = []
    for row, varying in zip(alike.rows, alike.varying, strict=True):
        values = zip(table.columns, row, strict=True)
        rows.append(", ".join(value(column.name, constant, varying) for column, constant in values))
    return _into(table, rows), zip(*map(listed, columns), strict=True)


def _into(table: Table, rows: Iterable[str]) -> str:
    return f"INSERT INTO {table.name} VALUES {', '.join(f'({row})' for row in rows)}"  # noqa: S608 - our own names


def _literal(value: str | int | None) -> str | None:
    """A value as SQL has it; None of one that is to be handed over as it is."""
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value) if abs(value) < _EXACT else None
    if len(value) > _LONGEST_LITERAL or not value.isprintable():
        return None
    return "'" + value.replace("'", "''") + "'"


def definition(table: Table) -> str:
    """CREATE TABLE with a comment on each column."""
    lines = []
    for column in table.columns:
        words = f"  {column.name} {column.type}{' NOT NULL' if column.required else ''}"
        if column.references:
            words += f" REFERENCES {column.references.replace('(', ' (')}"
        lines.append((words, column.about))
    lines.append((f"  PRIMARY KEY ({', '.join(table.key)})", ""))
    body = ""
    for number, (words, about) in enumerate(lines, 1):
        comma = "," if number < len(lines) else ""
        body += f"{words}{comma}{f' -- {about}' if about else ''}\n"
    return f"CREATE TABLE {table.name} ( -- {table.about}\n{body}) STRICT"


def tables_of(query: str) -> set[str]:
    """The tables that a query reads, views looked through. Raises `UsageError` for what is no query."""
    read: set[str] = set()
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as empty:
        for table in TABLES:
            empty.execute(definition(table))
        for name, (_, view) in VIEWS.items():
            empty.execute(f"CREATE VIEW {name} AS {view}")
        pages = "SELECT rootpage, tbl_name FROM sqlite_schema WHERE rootpage > 0"
        whose = dict(empty.execute(pages).fetchall())
        empty.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
        empty.set_authorizer(_reading(read))
        with _refused(query):
            program = empty.execute(f"EXPLAIN {query}").fetchall()
    # Columns of USING and of NATURAL JOIN are not reported: a table without others is known by its pages.
    read |= {
        whose[page] for _, code, _, page, *_ in program if code == "OpenRead" and page in whose
    }
    return read & {table.name for table in TABLES}


def reading(path: Path) -> sqlite3.Connection:
    """A database to be read by any thread, open from now on whatever becomes of its name."""
    name = f"file:{quote(str(path))}?mode=ro"
    connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = 1")
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    return connection


def ask(
    connection: sqlite3.Connection,
    query: str,
    timeout_s: float | None = None,
    heap_limit: int | None = None,
) -> Iterator[tuple[Any, ...]]:
    """The names of the columns, then the rows; then the connection is closed.

    ``heap_limit``: bytes that SQLite may take, in the whole process and from then on. Raises `UsageError` for
    what is no query, takes more than that, or takes longer than ``timeout_s``.
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
    if heap_limit is not None:
        connection.execute(f"PRAGMA hard_heap_limit = {heap_limit}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    connection.set_authorizer(_reading(set()))
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)
    with contextlib.closing(connection), _refused(query), _in_time(deadline, timeout_s):
        cursor = connection.execute(query)
        yield tuple(column[0] for column in cursor.description or ())
        yield from cursor


@contextlib.contextmanager
def _in_time(deadline: float, timeout_s: float | None) -> Iterator[None]:
    """Tell what interrupted a query: the time, or Ctrl-C, which Python lost while SQLite called it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        # Errors of Python's own have no code.
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_INTERRUPT:
            raise
        if time.monotonic() > deadline:
            raise UsageError(f"the query took longer than {timeout_s:g} s; see ", TIMEOUT) from None
        raise KeyboardInterrupt from None


def _reading(read: set[str]) -> Callable[..., int]:
    """An authorizer that lets nothing but reading through, and notes what is read."""

    def decide(action: int, first: str | None, second: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ and first is not None:
            read.add(first)
        allowed = action in _READING and second != "load_extension"
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return decide


@contextlib.contextmanager
def _refused(query: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning, MemoryError, UnicodeEncodeError) as error:
        fact = "it takes too much memory" if isinstance(error, MemoryError) else error
        raise UsageError(
            f"query {query[:60]!r}: {fact}; iptrec query --tables tells what there is"
        ) from None
