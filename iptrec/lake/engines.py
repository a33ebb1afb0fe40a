"""The engines that a lake can be asked by, all with the same questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from iptrec.errors import UsageError
from iptrec.lake.clickhouse import ClickHouse
from iptrec.lake.duck import DuckDB
from iptrec.lake.spark import LOCAL, Spark

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from iptrec.lake.answer import Ask, Progress
    from iptrec.lake.question import Value

NAMES: Final = ("duckdb", "clickhouse", "spark")


class Engine(Protocol):
    """What each of them does."""

    def literal(self, value: Value) -> str:
        """A value as its SQL writes it."""

    def opened(self, path: Path, progress: Progress | None = None) -> AbstractContextManager[Ask]:
        """Let the lake in a directory be asked; meanwhile no export changes what is there.

        Of a recording that has not come in whole, nothing is in an answer. Raises `UsageError` where the engine
        or the lake is missing, `HostError` where the engine does not start, and `RecordingError`, also while it
        is asked, where a file cannot be read.
        """


def engine(name: str, master: str = "") -> Engine:
    """One of them. ``master``: Spark's URL of a cluster. Raises `UsageError` where there is no such."""
    if name not in NAMES:
        raise UsageError(f"--engine {name!r}: must be one of {', '.join(NAMES)}")
    if name == "spark":
        return Spark(master or LOCAL)
    if master:
        raise UsageError("--master is an option of --engine spark")
    return DuckDB() if name == "duckdb" else ClickHouse()
