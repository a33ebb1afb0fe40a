"""A lake asked by DuckDB, in this process."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import RecordingError, UsageError
from iptrec.lake import directory, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from iptrec.lake.question import Value

_MEMORY: Final = "2GB"  # beyond that DuckDB goes on in files
_LOOK_S: Final = 0.1
_AT_ONCE: Final = 1000  # rows


def literal(value: Value) -> str:
    """A value as DuckDB writes it."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


class Answer:
    """What was found. ``columns``: the names."""

    def __init__(self, cursor: Any) -> None:  # noqa: ANN401 - duckdb is optional
        self.columns = [one[0] for one in cursor.description]
        self._cursor = cursor

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Each row, once."""
        while some := self._cursor.fetchmany(_AT_ONCE):
            yield from some


@contextlib.contextmanager
def asked(
    path: Path, sql: str, progress: Callable[[float], None] | None = None
) -> Iterator[Answer]:
    """Ask the lake in a directory; meanwhile no export changes what is there.

    ``progress``: is told now and then how much is done, from 0 to 100. Raises `UsageError` where duckdb or the
    lake is missing, `RecordingError` where a file cannot be read.
    """
    try:
        import duckdb  # noqa: PLC0415 - optional
    except ImportError:
        raise UsageError("asking a lake needs duckdb: pip install 'iptrec[lake]'") from None
    directory.require(path)
    directory.require_ours(path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(directory.steady(path))
        aside = stack.enter_context(tempfile.TemporaryDirectory(prefix="iptrec-"))
        settings: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": aside,
            "memory_limit": _MEMORY,
            "autoinstall_known_extensions": False,
        }
        connection = stack.enter_context(contextlib.closing(duckdb.connect(config=settings)))
        try:
            for name, files in directory.files(path).items():
                connection.execute(f"CREATE VIEW {name} AS {_select(name, files)}")
            for (found,) in connection.execute("SELECT DISTINCT format FROM recordings").fetchall():
                directory.require_format(path, found)
            yield Answer(_executed(connection, sql, progress))
        except duckdb.Error as error:
            raise RecordingError(f"{path}: {str(error).splitlines()[0]}") from None


def _select(name: str, files: list[Path]) -> str:
    if files:
        listed = ", ".join(literal(str(one)) for one in files)
        parted = "false" if name == "rules" else "true"
        return (
            f"SELECT * FROM read_parquet([{listed}], hive_partitioning = {parted},"  # noqa: S608 - our own names
            " hive_types_autocast = false)"
        )
    columns = [
        (one.name, "BIGINT" if one.type == "INTEGER" else "VARCHAR")
        for one in tables.NAMED[name].columns
    ]
    columns += [] if name == "rules" else [(one, "VARCHAR") for one in tables.PARTITIONS]
    return (
        f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {one}' for one, kind in columns)} WHERE false"
    )


def _executed(connection: Any, sql: str, progress: Callable[[float], None] | None) -> Any:  # noqa: ANN401
    """The cursor; beside another thread's work Ctrl-C is heard, and the progress can be told."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(connection.execute(sql))
        except Exception as error:  # noqa: BLE001 - raised below
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK_S)
            if progress is not None:
                progress(max(0.0, connection.query_progress()))
    except BaseException:
        connection.interrupt()
        thread.join()
        raise
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]
