"""A lake asked by DuckDB, in this process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import missing
from iptrec.lake import directory, tables
from iptrec.lake.answer import Answer, waited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from iptrec.lake.answer import Ask, Progress
    from iptrec.lake.question import Value

_MEMORY: Final = "2GB"  # beyond that DuckDB goes on in files
_AT_ONCE: Final = 1000  # rows


class DuckDB:
    """See `engines.Engine`."""

    def literal(self, value: Value) -> str:
        """A backslash is one."""
        return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"

    @contextlib.contextmanager
    def opened(self, path: Path, progress: Progress | None = None) -> Iterator[Ask]:
        """With 2 GB of memory, and files of $TMPDIR beyond that."""
        try:
            import duckdb  # noqa: PLC0415 - optional
        except ImportError:
            raise missing("asking a lake", "duckdb", "lake") from None
        with contextlib.ExitStack() as stack:
            lake = stack.enter_context(directory.at_rest(path))
            settings: dict[str, str | bool | int | float | list[str]] = {
                "temp_directory": str(lake.aside / "duckdb"),
                "memory_limit": _MEMORY,
                "autoinstall_known_extensions": False,
            }
            connection = stack.enter_context(contextlib.closing(duckdb.connect(config=settings)))

            def ask(sql: str) -> Answer:
                cursor = waited(
                    lambda: connection.execute(sql),
                    stop=connection.interrupt,
                    look=lambda: _tell(connection, progress),
                )
                return Answer([one[0] for one in cursor.description or ()], _rows(cursor))

            try:
                for name, files in lake.files.items():
                    listed = [self.literal(str(lake.link / one)) for one in files]
                    connection.execute(f"CREATE VIEW {name} AS {_select(name, listed)}")
                directory.require_known(path, ask)
                yield ask
            except duckdb.Error as error:
                raise lake.told(error) from None


def _select(name: str, files: list[str]) -> str:
    if not files:
        return tables.empty(tables.NAMED[name])
    parted = "false" if name == "rules" else "true"
    return (
        f"SELECT * FROM read_parquet([{', '.join(files)}], hive_partitioning = {parted},"  # noqa: S608 - our own
        " hive_types_autocast = false)"
    )


def _tell(connection: Any, progress: Progress | None) -> None:  # noqa: ANN401 - duckdb is optional
    if progress is not None:
        done = connection.query_progress()
        progress(done if done >= 0 else None)


def _rows(cursor: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    while some := cursor.fetchmany(_AT_ONCE):
        yield from some
