"""``iptrec export parquet``: the tables as files that DuckDB, Spark and ClickHouse read in place.

OUT/TABLE/host=HOST/date=YYYY-MM-DD/NAME.parquet: many recordings can be gathered in one directory.
Packets, their steps and relations are filed under the day of the packet, the rest under that of the
recording's start (UTC).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from iptrec.views import arrow
from iptrec.views.packet_json import iso_time
from iptrec.views.tables import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.files import DraftDirectory
    from iptrec.recording.rows import Facts
    from iptrec.views.tables import Row, Table

_MOST_OPEN: Final = 32  # files; a day each, as a rule there is one or two
_DAY_NS: Final = 24 * 3600 * 10**9


class Files:
    """The files of one export; a context manager."""

    def __init__(self, directory: DraftDirectory, facts: Facts) -> None:
        self._directory = directory
        self._host = quote(facts.host or "unknown", safe="") or "unknown"
        self._host = {".": "%2E", "..": "%2E%2E"}.get(self._host, self._host)[:200]
        self._name = quote(facts.uuid, safe="")[:100]
        self._date = _date(facts.started_ns)
        self._dates: dict[int, str] = {}  # of the packets at hand
        self._writers: dict[tuple[str, str], Any] = {}
        self._parts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for writer in self._writers.values():
            # What went wrong first is what is reported; the files go.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                writer.close()

    def fill(self, rows: Iterable[tuple[str, list[Row]]]) -> None:
        """Write the rows, and of tables without any an empty file that has their columns."""
        empty = dict(BY_NAME)
        for name, batch in rows:
            if batch:
                empty.pop(name, None)
            for day, part in self._days(name, batch).items():
                self._write(BY_NAME[name], day, part)
        for table in empty.values():
            self._write(table, self._date, [])

    def _days(self, name: str, batch: list[Row]) -> dict[str, list[Row]]:
        """The rows by the day that they are filed under; packets come before what belongs to them."""
        if not batch:
            return {}
        if name == "packets":
            dates = {day: _date(day * _DAY_NS) for day in {row[1] // _DAY_NS for row in batch}}
            self._dates = {row[0]: dates[row[1] // _DAY_NS] for row in batch}
        elif name not in ("steps", "related"):
            return {self._date: batch}
        (day, *others) = set(self._dates.values())
        if not others:
            return {day: batch}
        days: dict[str, list[Row]] = {}
        for row in batch:
            days.setdefault(self._dates[row[0]], []).append(row)
        return days

    def _write(self, table: Table, day: str, rows: list[Row]) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional

        columns = arrow.schema(table)
        key = table.name, day
        if key not in self._writers:
            while len(self._writers) >= _MOST_OPEN:
                self._writers.pop(next(iter(self._writers))).close()
            folder = self._directory.path / table.name / f"host={self._host}" / f"date={day}"
            self._parts += 1
            path = folder / f"{self._name}-{self._parts}.parquet"
            with self._directory.acting():
                folder.mkdir(parents=True, exist_ok=True)
                self._writers[key] = pq.ParquetWriter(path, columns, compression="zstd")
        self._writers[key].write_batch(arrow.batch(columns, rows))


def _date(time_ns: int) -> str:
    text = iso_time(time_ns)
    return text[:10] if "T" in text else "unknown"
