"""The Parquet files of one recording: by day, sorted by time, in row groups and files of a bounded size."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import numpy as np

from iptrec.views import arrow
from iptrec.views.days import Days

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from iptrec.files import DraftDirectory
    from iptrec.lake.layouts import Layout

_GROUP: Final = 1 << 17  # rows that are sorted together, and make a row group
_GROUP_BYTES: Final = 16 << 20
_FILE: Final = 1 << 22  # rows
_MOST_WAITING: Final = 32  # days of one table; as a rule there is one or two
_NULL: Final = "__HIVE_DEFAULT_PARTITION__"  # what DuckDB and Spark read as no name at all


def host_directory(host: str) -> str:
    """``host=`` with a stranger's name for it, percent-encoded where it has more than letters, digits, -_.~."""
    host = (host or "unknown")[:200]
    while len(found := quote(host, safe="")) > 200:  # noqa: PLR2004 - a directory's name has at most 255 bytes
        host = host[:-1]
    if set(found) == {"."}:
        found = found.replace(".", "%2E")
    elif found == _NULL:
        found = found.replace("_", "%5F", 1)
    return f"host={found}"


class Files:
    """What a draft gets of one recording; a context manager. ``name``: its id; ``date``: the day it began.

    ``layouts``: of the tables. ``written``: the files, relative to the draft.
    """

    def __init__(
        self,
        draft: DraftDirectory,
        name: str,
        host: str,
        date: str,
        layouts: Mapping[str, Layout],
    ) -> None:
        self._draft = draft
        self.layouts = layouts
        self._name, self._host, self._date = name, host_directory(host), date
        self._packets = Days()
        self._parts: dict[tuple[str, str], _Part] = {}
        self._done_ns: int | None = None  # no packet to come began before, as a rule
        self._count = 0
        self.written: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for part in self._parts.values():
            # What went wrong first is what is reported; the files go.
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                part.close(write=kind is None)

    def fill(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Write the rows; packets come before what belongs to them."""
        for table, batch in rows:
            for date, some in self._days(table, batch) if len(batch) else ():
                self._part(table, date).add(some, self._done_ns)

    def rules(self, batch: Any, name: str) -> None:  # noqa: ANN401 - pyarrow is optional
        """Write rules, which are of no host and no day."""
        with _Writer(
            self._draft, self._new(f"rules/{name}.parquet"), self.layouts["rules"]
        ) as writer:
            writer.write(batch)

    def recording(self, batch: Any) -> None:  # noqa: ANN401
        """Write the recording's own row."""
        self._part("recordings", self._date).add(batch, None)

    def _days(self, table: str, batch: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
        layout = self.layouts[table]
        if layout.packet is None:
            self._done_ns = None
            yield self._date, batch
            return
        packet = batch.column(layout.packet).to_numpy()
        if layout.leads:
            time_ns = batch.column(layout.time).to_numpy()
            self._packets.take(packet, time_ns)
            self._done_ns = int(time_ns[-1])
        yield from self._packets.parts(packet, batch)

    def _part(self, table: str, date: str) -> _Part:
        key = table, date
        if key not in self._parts:
            while len(self._parts) >= _MOST_WAITING:
                self._parts.pop(next(iter(self._parts))).close()
            self._parts[key] = _Part(self, table, date)
        return self._parts[key]

    def open(self, table: str, date: str) -> _Writer:
        """The next file of a table's day."""
        self._count += 1
        path = f"{table}/dt={date}/{self._host}/{self._name}-{self._count}.parquet"
        return _Writer(self._draft, self._new(path), self.layouts[table])

    def _new(self, path: str) -> str:
        self.written.append(path)
        return path


class _Part:
    """The rows of one day of a table: what waits to be sorted, and the file that is being written."""

    def __init__(self, files: Files, table: str, date: str) -> None:
        self._files, self._table, self._date = files, table, date
        self._time = files.layouts[table].time
        self._waiting: list[Any] = []
        self._rows = self._bytes = 0
        self._writer: _Writer | None = None

    def add(self, batch: Any, done_ns: int | None) -> None:  # noqa: ANN401
        """Take rows. ``done_ns``: packets that come later began later, as a rule."""
        self._waiting.append(batch)
        self._rows += len(batch)
        self._bytes += batch.nbytes
        if self._rows >= _GROUP or self._bytes >= _GROUP_BYTES:
            self._write(done_ns)

    def close(self, *, write: bool = True) -> None:
        """Write what waits, and end the file."""
        if write and self._rows:
            self._write(None)
        if self._writer is not None:
            self._writer.close()

    def _write(self, done_ns: int | None) -> None:
        """A row group of what waits, but for what may have to stand behind rows to come."""
        import pyarrow as pa  # noqa: PLC0415 - optional

        found = pa.Table.from_batches(self._waiting).unify_dictionaries()
        self._waiting = []
        rest = found.slice(len(found))
        if self._time is not None:
            time_ns = found.column(self._time).to_numpy()
            if (time_ns[1:] < time_ns[:-1]).any():
                order = np.argsort(time_ns, kind="stable")
                found, time_ns = found.take(order), time_ns[order]
            done = len(found)
            if done_ns is not None:
                done = int(np.searchsorted(time_ns, done_ns, "right"))
            if done < len(found) // 2:  # times that go back: nothing is gained by waiting
                done = len(found)
            found, rest = found.slice(0, done), found.slice(done)
        if len(rest):  # a copy: a slice would keep all of it
            self._waiting = rest.take(np.arange(len(rest))).combine_chunks().to_batches()
        self._rows = len(rest)
        self._bytes = sum(one.nbytes for one in self._waiting)
        self._next(found).write(found)

    def _next(self, rows: Any) -> _Writer:  # noqa: ANN401
        """The file that these rows can go on; another one where it is long, or they begin before its end."""
        begin_ns = rows.column(self._time)[0].as_py() if self._time is not None else 0
        old = self._writer
        if old is not None and (old.rows >= _FILE or old.last_ns > begin_ns):
            old.close()
            old = None
        if old is None:
            old = self._writer = self._files.open(self._table, self._date)
        if self._time is not None:
            old.last_ns = rows.column(self._time)[-1].as_py()
        return old


class _Writer:
    """One file that is being written; a context manager."""

    def __init__(self, draft: DraftDirectory, path: str, layout: Layout) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - optional

        self._layout = layout
        target: Path = draft.path / path
        by = layout.sorted_by
        with draft.acting():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(
                target,
                layout.schema(True),
                compression="zstd",
                store_schema=False,
                use_dictionary=layout.dictionaries,
                write_batch_size=arrow.AT_ONCE,
                sorting_columns=None if by is None else [pq.SortingColumn(by)],
            )
        arrow.tell(self._writer, layout.schema(False))
        self.rows = 0
        self.last_ns = -(2**63)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, rows: Any) -> None:  # noqa: ANN401
        """A row group."""
        import pyarrow as pa  # noqa: PLC0415

        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        self._writer.write_table(self._layout.written(table), row_group_size=_GROUP)
        self.rows += len(table)

    def close(self) -> None:
        """End it."""
        self._writer.close()
