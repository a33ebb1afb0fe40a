"""The public Python API: a recording as typed objects. No logic of its own; the command line is its first user.

What is asked for is read when it is asked for, from the file as it is then. Errors are `IptrecError`:
`UsageError` for an argument that cannot be meant, `RecordingError` for a file that cannot be read. A number
of a packet that is not there is a `LookupError`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, Unpack, cast

from iptrec import arguments
from iptrec.answers import packets as answers
from iptrec.answers import select
from iptrec.errors import TIMEOUT
from iptrec.packets.model import Traversal
from iptrec.recording import at_work
from iptrec.recording.hosts import of_namespace

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa

    from iptrec.answers.index import Index
    from iptrec.answers.packets import Counted
    from iptrec.answers.path_counts import PathCount
    from iptrec.answers.rules import TableCount
    from iptrec.answers.select import Select
    from iptrec.answers.selection import Selection
    from iptrec.answers.summary import Summary
    from iptrec.answers.why import Explanation
    from iptrec.decode.rulesets.types import Ruleset
    from iptrec.names import Family
    from iptrec.recording import rows as recorded
    from iptrec.recording.reader import Reader
    from iptrec.recording.several import Several

__all__ = [
    "Packet",
    "Packets",
    "Recording",
    "Rows",
    "open",
]
T = TypeVar("T")
_POLL_S: Final = 0.1
_LEAST_HEAP: Final = 1 << 20  # bytes; with less no recording could be read any more in this process


def open(path: str | os.PathLike[str], *more: str | os.PathLike[str]) -> Recording:
    """Open a recording, compressed or not, cut off or still growing; see `Recording`.

    With ``more`` of them, or of a file that `iptrec merge` made, several are read as one: each packet has its
    ``host``, and each recording is as it is now, also if it grows.

    Raises `RecordingError` for a file that is not one, or is damaged, or of a newer iptrec; `UsageError` for
    what is not the name of a file.
    """
    from iptrec.recording.reader import Reader  # noqa: PLC0415 - not for who only records
    from iptrec.recording.several import together  # noqa: PLC0415

    with contextlib.ExitStack() as stack:  # what is open is closed if another one cannot be opened
        readers = [
            stack.enter_context(Reader(arguments.file("path", one))) for one in (path, *more)
        ]
        found = Recording(together(readers))
        stack.pop_all()
        return found


class Packet(Traversal):
    """A packet's way through the rules: see `iptrec.packets.model.Traversal`."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """As `iptrec show` prints it, for a notebook."""
        from iptrec.views.html import as_html  # noqa: PLC0415 - for notebooks alone

        return as_html(self)


class _WhileOpen(Iterator[T]):
    """What is found in a recording, one after the other; once that is closed, a `RecordingError`."""

    def __init__(self, recording: Recording, found: Iterable[T]) -> None:
        self._recording = recording
        self._found = iter(found)

    def __next__(self) -> T:
        self._recording.require_open()
        return next(self._found)


class Packets(_WhileOpen[Packet]):
    """The selected packets in order of their first event: an iterator that makes each when it is asked for."""

    def __init__(self, recording: Recording, selection: Selection) -> None:
        self._selection = selection
        self._taken = recording.columns(selection)
        super().__init__(recording, cast("Iterable[Packet]", self._taken))

    @property
    def unjudged(self) -> int:
        """Of how many packets the filter does not know, once all were taken: their headers are not whole."""
        return self._taken.unjudged

    def to_arrow(self, table: Literal["packets", "steps"] = "packets") -> pa.Table:
        """All selected packets, or their steps, as a pyarrow.Table, whatever was taken one by one before.

        The columns are those of `iptrec query --tables` (schemas/tables-v1.md), each described in its field's
        metadata. Raises `UsageError` where pyarrow is missing.
        """
        from iptrec.views import arrow, table_rows, tables  # noqa: PLC0415 - pyarrow is optional

        arrow.require("to_arrow")
        arguments.one_of("table", table, ("packets", "steps"))
        found = table_rows.rows(self._recording.rows, self.columns(), {table})
        return arrow.table(tables.BY_NAME[table], (some for _, some in found))

    def follow(self) -> Iterator[Packet]:
        """The packets of a recording that grows; see `Recording.follow`."""
        found = self.columns().follow(self._recording.ticks())
        return _WhileOpen(self._recording, cast("Iterator[Packet]", found))

    def columns(self) -> answers.Packets:
        """All selected packets as columns, of which iptrec's own views are made. May change."""
        return self._recording.columns(self._selection)


class Explanations(_WhileOpen["Explanation"]):
    """The explanations of the selected packets, each made when it is asked for."""

    def __init__(self, recording: Recording, packets: answers.Packets) -> None:
        from iptrec.answers import why  # noqa: PLC0415 - loads all that is known of matches

        self._taken = packets
        super().__init__(recording, why.explain(recording.rows, packets))

    @property
    def unjudged(self) -> int:
        """See `Packets.unjudged`."""
        return self._taken.unjudged


class Rows(Iterator[tuple[Any, ...]]):
    """What a query found; ``columns``: their names. Can be read after the recording is closed.

    One thread at a time may read them, whichever.
    """

    def __init__(self, columns: tuple[str, ...], found: Iterator[tuple[Any, ...]]) -> None:
        self.columns = columns
        self._found = found

    def __next__(self) -> tuple[Any, ...]:
        return next(self._found)


class Recording:
    """An open recording; a context manager. One thread at a time may use it, whichever.

    Methods take a ``filter`` in tcpdump's language and the conditions of `Select`; what is lost or cut off
    they say in each packet (``complete``, ``reason``), in `losses` and in `summary`.

    ``rows``: the raw streams, snapshots and chunks that everything is made of. Their types may change.
    """

    def __init__(
        self,
        reader: Reader | Several,
        rows: recorded.Recording | None = None,
        index: Index | None = None,
        read: answers.Read | None = None,
    ) -> None:
        self.reader = reader
        self._read = read
        self.rows: recorded.Recording = reader if rows is None else rows
        self._index = index

    def __repr__(self) -> str:
        closed = ", closed" if self.reader.closed else ""
        return f"<iptrec.Recording {str(self.path)!r}{closed}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file: what is asked for afterwards is a `RecordingError`."""
        self.reader.close()

    def require_open(self) -> None:
        """Raise `RecordingError` after `close`."""
        self.reader.require_open()

    @property
    def path(self) -> Path:
        """The file."""
        return self.reader.path

    @property
    def facts(self) -> recorded.Facts:
        """When, where, by which command and how it was recorded; times in ns since 1970."""
        return self.rows.facts

    @property
    def running(self) -> bool | None:
        """Whether its recorder is still at work; None where that cannot be told."""
        return self.reader.running

    @property
    def size(self) -> int:
        """The bytes of the file, uncompressed."""
        return self.reader.size

    @property
    def namespaces(self) -> Sequence[recorded.Namespace]:
        """The network namespaces that were recorded."""
        return self.rows.namespaces

    @property
    def losses(self) -> Sequence[recorded.Loss]:
        """What the kernel sent and is not there, in order: when; how many, None if that is not known."""
        return self.rows.losses

    @property
    def end_ns(self) -> int:
        """When recording stopped, ns since 1970; of one that is cut off or grows, its last event so far."""
        facts = self.facts
        if facts.stopped_ns is not None:
            return facts.stopped_ns
        chunks = self.rows.chunks()
        return max((int(one.received_ns[-1]) for one in chunks), default=facts.started_ns)

    def summary(self, filter: str | None = None, **conditions: Unpack[Select]) -> Summary:
        """Go through all of it once: how much there is, how complete, and of which kind selected packets are.

        Without conditions these are all, whatever the recording's --iface.
        """
        from iptrec.answers.summary import summarize  # noqa: PLC0415

        self.require_open()
        chosen = self._selection(filter, conditions) if filter or conditions else None
        return summarize(self.rows, chosen)

    def packets(self, filter: str | None = None, **conditions: Unpack[Select]) -> Packets:
        """The selected packets."""
        return Packets(self, self._selection(filter, conditions))

    def packet(self, number: int) -> Packet:
        """One packet, by its number, from 1. Raises `LookupError` if there is none."""
        found = next(self.packets(packet=number), None)
        if found is None:
            raise LookupError(f"{self.path} has no packet {number}")
        return found

    def follow(
        self,
        filter: str | None = None,
        **conditions: Unpack[Select],
    ) -> Iterator[Packet]:
        """The selected packets of a recording that grows, as they are decided; ends with the recorder.

        Where `running` is None it ends when the recording is closed, which a killed recorder does not do.
        """
        return self.packets(filter, **conditions).follow()

    def paths(
        self,
        filter: str | None = None,
        **conditions: Unpack[Select],
    ) -> Counted[PathCount]:
        """The paths that the selected packets took, the most taken first."""
        from iptrec.answers.path_counts import count_paths  # noqa: PLC0415

        return count_paths(self.rows, self._selection(filter, conditions), self._index, self._read)

    def rules(
        self,
        filter: str | None = None,
        **conditions: Unpack[Select],
    ) -> Counted[TableCount]:
        """The rules as they last were, table by table, with the selected packets that hit them."""
        from iptrec.answers.rules import count_rules  # noqa: PLC0415

        return count_rules(self.rows, self._selection(filter, conditions))

    def why(self, packet: int | Packet) -> Explanation:
        """Why a packet ended as it did: at each step the rules before that did not match, and why not.

        Raises `LookupError` if there is no such packet in this recording.
        """
        known = packet if isinstance(packet, Traversal) else None
        number = packet.number if isinstance(packet, Traversal) else packet
        found = next(self.explain(packet=number), None)
        if known and (found is None or known.time_ns != found.packet.time_ns):
            raise LookupError(
                f"this packet {number} is not in {self.path}: it is of another recording, or a ring has let"
                " it go"
            )
        if found is None:
            raise LookupError(f"{self.path} has no packet {number}")
        return found

    def explain(
        self,
        filter: str | None = None,
        **conditions: Unpack[Select],
    ) -> Explanations:
        """The same of all selected packets."""
        return Explanations(self, self.packets(filter, **conditions).columns())

    def rulesets(self, time_ns: int | datetime | None = None) -> Mapping[Family, Ruleset]:
        """The rules in force at a time, as far as they had been seen; None: in the end.

        ``time_ns``: ns since 1970, or a datetime with a time zone.
        """
        from iptrec.rulesets.backends import rulesets  # noqa: PLC0415

        time = None if time_ns is None else arguments.moment("time_ns", time_ns)
        first = next(iter(self.namespaces), None)
        if first is None:
            return {}
        return rulesets(of_namespace(self.rows, first.id), time, first.id)

    def query(
        self, sql: str, *, timeout_s: float | None = None, heap_limit: int | None = None
    ) -> Rows:
        """Ask in SQLite's language, over the tables of `iptrec query --tables`; only reading is allowed.

        ``timeout_s``: seconds, for the query itself. ``heap_limit``: bytes (a MiB at least) that SQLite may
        take, in the whole process and from then on. Raises `UsageError` for what is not a query, takes too
        long, or too much memory.
        """
        from iptrec.files import Draft  # noqa: PLC0415 - sqlite-utils is slow to load
        from iptrec.recording import private  # noqa: PLC0415
        from iptrec.views import sqlite, table_rows  # noqa: PLC0415

        sql = arguments.text("sql", sql)
        if timeout_s is not None:
            timeout_s = arguments.seconds(TIMEOUT, timeout_s)
        if heap_limit is not None:
            heap_limit = arguments.count("heap_limit", heap_limit, _LEAST_HEAP, "bytes, ")
        wanted = sqlite.tables_of(sql)
        with private.directory() as place, Draft(place / "tables.db", named=True) as draft:
            with sqlite.database(draft) as made:
                sqlite.fill(made, table_rows.rows(self.rows, self.packets().columns(), wanted))
            # Its name goes: nothing stays behind, whatever ends the query.
            asked = sqlite.reading(draft.path)
        found = sqlite.ask(asked, sql, timeout_s, heap_limit)
        return Rows(tuple(map(str, next(found))), found)

    def columns(self, selection: Selection) -> answers.Packets:
        """The packets of a selection as columns; see `Packets.columns`."""
        self.require_open()
        return answers.Packets(self.rows, selection, self._index, Packet, self._read)

    def ticks(self) -> Iterator[int]:
        """The time (ns since 1970), again and again, until the recording is closed or its recorder is gone."""
        with at_work.following(self.path):
            while self.running is not False:
                yield time.time_ns()
                self.reader.wait(_POLL_S)

    def _selection(self, words: str | None, conditions: Select) -> Selection:
        self.require_open()
        return select.selection(self.rows, words, conditions)
