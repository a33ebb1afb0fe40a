"""A lake asked by ClickHouse, in this process (chdb)."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import missing
from iptrec.lake import directory, tables
from iptrec.lake.answer import Answer, escaped, waited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from iptrec.lake.answer import Ask, Progress
    from iptrec.lake.question import Value

_MEMORY: Final = 2 * 10**9
_KINDS: Final = {"INTEGER": "Nullable(Int64)", "TEXT": "Nullable(String)"}
_SETTINGS: Final = {
    "use_hive_partitioning": 1,
    "join_use_nulls": 1,  # as everybody else has it
    "prefer_column_name_to_alias": 1,
    "schema_inference_make_columns_nullable": 1,
    "output_format_json_quote_64bit_integers": 0,
    "max_memory_usage": _MEMORY,  # half of it, and it goes on in files
    "max_query_size": 1 << 30,  # a view names each file
}


class ClickHouse:
    """See `engines.Engine`."""

    def literal(self, value: Value) -> str:
        """A backslash means something."""
        return escaped(value)

    @contextlib.contextmanager
    def opened(self, path: Path, progress: Progress | None = None) -> Iterator[Ask]:
        """With 2 GB of memory; what it sorts and groups beyond that goes to files of $TMPDIR."""
        try:
            with _utc():
                from chdb.session import Session  # noqa: PLC0415 - optional
        except ImportError:
            raise missing("asking by ClickHouse", "chdb", "clickhouse") from None
        with contextlib.ExitStack() as stack:
            lake = stack.enter_context(directory.at_rest(path))
            kept = str(lake.aside / "clickhouse")
            session = stack.enter_context(Session(kept))
            done: list[float | None] = [None]
            session._conn.set_progress_callback(lambda told: done.__setitem__(0, _part(told)))  # noqa: SLF001

            def ask(sql: str) -> Answer:
                found = waited(
                    lambda: session.query(sql, "JSONCompactEachRowWithNames"),
                    stop=lambda: _stop(Session(kept)),
                    look=lambda: progress and progress(done[0]),
                )
                first, *rows = str(found).splitlines()
                names = [one.rpartition(".")[2] for one in json.loads(first)]  # of a join: p.host
                return Answer(names, (tuple(json.loads(row)) for row in rows))

            try:
                for name, value in _SETTINGS.items():
                    session.query(f"SET {name} = {value}")
                for name, files in lake.files.items():
                    session.query(f"CREATE VIEW {name} AS {_select(name, lake.link, files)}")
                directory.require_known(path, ask)
                yield ask
            except RuntimeError as error:  # chdb's own errors are
                raise lake.told(error) from None


def _select(name: str, root: Path, files: list[Path]) -> str:
    if not files:
        return tables.empty(tables.NAMED[name], _KINDS)
    listed = ",".join(map(str, files))
    source = escaped(f"{root}/{{{listed}}}" if len(files) > 1 else f"{root}/{listed}")
    host = "" if name == "rules" else " REPLACE (decodeURLComponent(host) AS host)"
    return f"SELECT *{host} FROM file({source}, 'Parquet')"  # noqa: S608 - our own names


@contextlib.contextmanager
def _utc() -> Iterator[None]:
    """As ClickHouse is loaded it wants the time zone by name, which not every host has."""
    zone = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    try:
        yield
    finally:
        del os.environ["TZ"]
        if zone is not None:
            os.environ["TZ"] = zone


def _stop(other: Any) -> None:  # noqa: ANN401 - chdb is optional
    """End the queries of all sessions of this process, asked by one more."""
    with other:
        other.query("KILL QUERY WHERE query_id <> queryID() ASYNC")


def _part(told: dict[str, int]) -> float | None:
    """How much is done, 0 to 100, where it is known how many rows there are."""
    every = told["total_rows_to_read"]
    return min(100 * told["read_rows"] / every, 100.0) if every else None
