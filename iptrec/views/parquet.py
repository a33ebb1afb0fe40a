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
from iptrec.views.days import Days, day
from iptrec.views.filed import Filed
from iptrec.views.tables import BY_NAME, OF_PACKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.files import DraftDirectory
    from iptrec.recording.rows import Facts
    from iptrec.views.tables import Table

_MOST_OPEN: Final = 32  # files; a day each, as a rule there is one or two


class Files:
    """The files of one export; a context manager."""

    def __init__(self, directory: DraftDirectory, facts: Facts) -> None:
        self._directory = directory
        self._host = quote(facts.host or "unknown", safe="") or "unknown"
        self._host = {".": "%2E", "..": "%2E%2E"}.get(self._host, self._host)[:200]
        self._name = quote(facts.uuid, safe="")[:100]
        self._date = day(facts.started_ns)
        self._packets = Days()
        self._writers: dict[tuple[str, str], Any] = {}
        self._parts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for writer in self._writers.values():
            # What went wrong first is what is reported; the files go.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                writer.close()

    def fill(self, rows: Iterable[tuple[str, Filed]]) -> None:
        """Write the rows, and of tables without any an empty file that has their columns."""
        empty = dict(BY_NAME)
        for name, filed in rows:
            table = BY_NAME[name]
            batch = arrow.batch(arrow.schema(table, coded=True), filed)
            if len(batch):
                empty.pop(name, None)
            for date, part in self._days(name, batch):
                self._write(table, date, part)
        for table in empty.values():
            self._write(
                table, self._date, arrow.batch(arrow.schema(table, coded=True), Filed(table))
            )

    def _days(self, name: str, batch: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - pyarrow is optional
        """The rows by the day that they are filed under; packets come before what belongs to them."""
        if not len(batch):
            return
        if name not in OF_PACKETS:
            yield self._date, batch
            return
        packet = batch.column("packet").to_numpy()
        if name == "packets":
            self._packets.take(packet, batch.column("time_ns").to_numpy())
        yield from self._packets.parts(packet, batch)

    def _write(self, table: Table, date: str, rows: Any) -> None:  # noqa: ANN401
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional

        key = table.name, date
        if key not in self._writers:
            while len(self._writers) >= _MOST_OPEN:
                self._writers.pop(next(iter(self._writers))).close()
            folder = self._directory.path / table.name / f"host={self._host}" / f"date={date}"
            self._parts += 1
            path = folder / f"{self._name}-{self._parts}.parquet"
            with self._directory.acting():
                folder.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(
                    path,
                    rows.schema,
                    compression="zstd",
                    store_schema=False,
                    use_dictionary=arrow.coded(rows.schema),
                    write_batch_size=arrow.AT_ONCE,
                )
            arrow.tell(writer, arrow.schema(table))
            self._writers[key] = writer
        self._writers[key].write_batch(rows)
