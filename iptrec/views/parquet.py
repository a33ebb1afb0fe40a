"""``iptrec export parquet``: the tables as files that DuckDB, Spark and ClickHouse read in place.

OUT/TABLE/host=HOST/date=YYYY-MM-DD/NAME.parquet: many recordings can be gathered in one directory.
Packets, their steps and relations are filed under the day of the packet, the rest under that of the
recording's start (UTC).
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import numpy as np

from iptrec.views import arrow
from iptrec.views.filed import Filed
from iptrec.views.packet_json import iso_time
from iptrec.views.tables import BY_NAME, OF_PACKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.files import DraftDirectory
    from iptrec.recording.rows import Facts
    from iptrec.views.tables import Table

_MOST_OPEN: Final = 32  # files; a day each, as a rule there is one or two
_AT_ONCE: Final = 1 << 16  # rows: by the 1024 of the library it takes a quarter longer
_DAY_NS: Final = 24 * 3600 * 10**9


class Files:
    """The files of one export; a context manager."""

    def __init__(self, directory: DraftDirectory, facts: Facts) -> None:
        self._directory = directory
        self._host = quote(facts.host or "unknown", safe="") or "unknown"
        self._host = {".": "%2E", "..": "%2E%2E"}.get(self._host, self._host)[:200]
        self._name = quote(facts.uuid, safe="")[:100]
        self._date = _date(facts.started_ns)
        self._packet = self._day = np.empty(0, np.int64)  # of the packets at hand
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
            for day, part in self._days(name, batch):
                self._write(table, day, part)
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
            self._packet, self._day = packet, batch.column("time_ns").to_numpy() // _DAY_NS
        if self._day.min() == self._day.max():
            yield _date(int(self._day[0]) * _DAY_NS), batch
            return
        day = self._day[np.searchsorted(self._packet, packet)]
        for one in np.unique(day).tolist():
            yield _date(one * _DAY_NS), batch.take(np.flatnonzero(day == one))

    def _write(self, table: Table, day: str, rows: Any) -> None:  # noqa: ANN401
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional

        key = table.name, day
        if key not in self._writers:
            while len(self._writers) >= _MOST_OPEN:
                self._writers.pop(next(iter(self._writers))).close()
            folder = self._directory.path / table.name / f"host={self._host}" / f"date={day}"
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
                    write_batch_size=_AT_ONCE,
                )
            # Whoever reads it sees plain texts; that some were written by number is not a fact of theirs.
            plain = arrow.schema(table)
            told = base64.b64encode(plain.serialize())
            writer.add_key_value_metadata({**plain.metadata, "ARROW:schema": told})
            self._writers[key] = writer
        self._writers[key].write_batch(rows)


def _date(time_ns: int) -> str:
    text = iso_time(time_ns)
    return text[:10] if "T" in text else "unknown"
