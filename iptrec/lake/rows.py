"""The rows that one recording has in a lake, as pyarrow.RecordBatches with the columns of `tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

import numpy as np

from iptrec.lake import keys, tables
from iptrec.lake.counted import Counted
from iptrec.rulesets.table_names import plain
from iptrec.views import arrow, table_rows
from iptrec.views.event_facts import rule_digest
from iptrec.views.filed import Filed
from iptrec.views.tables import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.answers.packets import Batch, Packets
    from iptrec.names import I64
    from iptrec.recording.rows import Facts, Recording
    from iptrec.views.tables import Table

_WANTED: Final = ("namespaces", "losses", "rules", "packets", "steps", "related")
_CONTENT: Final = ("family", "table_name", "chain", "spec")  # what a rule's digest is made of
_RING: Final = "SIGUSR1"  # why a copy of a ring ended: there may be more, with other packets


def name(facts: Facts) -> str:
    """The id of a recording, fit for a file's name: files of --rotate and copies of a ring have one each."""
    found = f"{quote(facts.uuid, safe='').replace('.', '%2E')[:100]}-{facts.started_ns}"
    return f"{found}-{facts.stopped_ns}" if facts.stop_reason == _RING else found


class Rows:
    """The rows of a recording; ``name``: its id. ``rules``: those that it has, by their digests."""

    def __init__(self, recording: Recording, packets: Packets, name: str) -> None:
        self._recording = recording
        self._noted = _Noted(packets)
        self._packets = cast("Packets", self._noted)  # as far as its rows are concerned
        self._name = name
        self._rule_ids: Any = None  # of each row of the table rules of the recording
        self._counted = Counted()
        self.rules: dict[str, tuple[str | None, ...]] = {}

    def batches(self) -> Iterator[tuple[str, Any]]:
        """(table, rows), of all tables but recordings and rules: what belongs there is known afterwards."""
        held: Any = None  # packets whose steps come next
        for table, filed in table_rows.rows(self._recording, self._packets, _WANTED):
            found = arrow.batch(arrow.schema(BY_NAME[table], coded=True), filed)
            columns = _columns(found)
            self._counted.rows[table] += len(found)
            if table == "steps":
                columns["rule_id"] = self._ruled(columns["rule_id"])
            if held is not None:
                if table == "steps":
                    held["decided_rule_id"] = _deciding(held, columns)
                yield "packets", self._arranged("packets", held)
                held = None
            if table == "packets":
                flags = (columns[one] for one in ("complete", "ambiguous", "verdict"))
                self._counted.note(columns["time_ns"], *flags)
                held = columns | self._noted.keys()
            elif table == "rules":
                self._learn(columns)
                columns["rule_id"] = self._ruled(columns["id"])
                yield "places", self._arranged("places", columns)
            else:
                yield table, self._arranged(table, columns)
        if held is not None:
            yield "packets", self._arranged("packets", held)

    def contents(self, known: set[str]) -> Any:  # noqa: ANN401 - pyarrow is optional
        """The rows of the table rules whose digests are not known."""
        rows = [(one, *self.rules[one]) for one in sorted(self.rules.keys() - known)]
        return batch_of("rules", rows)

    def itself(self, fingerprint: str) -> Any:  # noqa: ANN401
        """The row of the table recordings, once all others were taken."""
        row = self._counted.row(self._recording, self._packets, self._name, fingerprint)
        return batch_of("recordings", row)

    def _learn(self, rules: dict[str, Any]) -> None:
        """The digests of the recording's rules, in the order of their ids, 1, 2, ..."""
        import pyarrow as pa  # noqa: PLC0415

        kept = [one.name for one in tables.NAMED["rules"].columns[1:]]
        ids = []
        columns = {one: rules[one].to_pylist() for one in kept}
        # Which other backend was recorded beside it is no fact of a rule.
        columns["table_name"] = [*map(plain, columns["table_name"])]
        for row in zip(*columns.values(), strict=True):
            digest = rule_digest(row[: len(_CONTENT)])
            self.rules.setdefault(digest, row)
            ids.append(digest)
        self._rule_ids = pa.array(ids, pa.string())

    def _ruled(self, ids: Any) -> Any:  # noqa: ANN401
        """The digests of rules that a column names by number."""
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.compute as pc  # noqa: PLC0415

        return pa.DictionaryArray.from_arrays(pc.subtract(ids, 1).cast(pa.int32()), self._rule_ids)

    def _arranged(self, table: str, columns: dict[str, Any]) -> Any:  # noqa: ANN401
        """A batch of these columns, with the recording in all rows."""
        import pyarrow as pa  # noqa: PLC0415

        count = len(next(iter(columns.values())))
        same = pa.array([self._name], pa.string())
        columns["recording"] = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), same)
        return _whole(tables.NAMED[table], columns)


class _Noted:
    """Packets; ``batch``: the one that was taken last."""

    def __init__(self, packets: Packets) -> None:
        self._packets = packets
        self.batch: Batch

    def batches(self, *, paths: bool) -> Iterator[Batch]:
        for batch in self._packets.batches(paths=paths):
            self.batch = batch
            yield batch

    def keys(self) -> dict[str, Any]:
        """The columns of keys of that batch."""
        import pyarrow as pa  # noqa: PLC0415

        window = self.batch.window
        first = window.assembly.rows[window.assembly.first[self.batch.positions]]
        key, sure = keys.keys(window.events, first)
        return {
            "packet_key": pa.array(key, mask=~window.events.ip[first]),
            "key_sure": pa.array(sure.astype(np.int64)),
        }


def _columns(batch: Any) -> dict[str, Any]:  # noqa: ANN401
    """By name, without the times as texts, in whose place there are timestamps."""
    found = dict(zip(batch.schema.names, batch.columns, strict=True))
    found.pop("time", None)
    return found


def batch_of(table: str, rows: Iterable[Any]) -> Any:  # noqa: ANN401
    """Some rows of a small table, made one by one."""
    definition = tables.NAMED[table]
    found = arrow.batch(arrow.schema(definition, coded=True), Filed.of(definition, rows))
    return _whole(definition, dict(zip(found.schema.names, found.columns, strict=True)))


def _whole(table: Table, columns: dict[str, Any]) -> Any:  # noqa: ANN401
    """A batch of these columns, with timestamps beside the times; those that are not there are empty."""
    import pyarrow as pa  # noqa: PLC0415

    for column, twin in tables.times(table).items():
        columns[twin] = columns[column].view(pa.timestamp("ns", "UTC"))
    schema = tables.schema(table, coded=True)
    count = len(next(iter(columns.values())))
    empty = (field for field in schema if field.name not in columns)
    columns |= {field.name: pa.nulls(count, field.type) for field in empty}
    return pa.RecordBatch.from_arrays([columns[one] for one in schema.names], schema=schema)


def _deciding(packets: dict[str, Any], steps: dict[str, Any]) -> Any:  # noqa: ANN401
    """The digest of the rule that decided each packet: that of its last step there."""
    import pyarrow as pa  # noqa: PLC0415

    number = packets["packet"].to_numpy()
    found = np.full(len(number), -1, np.int32)
    at = np.searchsorted(number, steps["packet"].to_numpy())
    known: dict[str, int] = {}
    same = np.ones(len(at), np.bool_)
    for decided, column in (("decided_table", "table_name"), ("decided_chain", "chain")):
        same &= _numbered(packets[decided], known)[at] == _numbered(steps[column], known)
    rule = packets["decided_rule"].fill_null(-1).to_numpy()[at]
    same &= (rule >= 0) & (rule == steps["rule"].fill_null(-1).to_numpy())
    digest = steps["rule_id"].indices.fill_null(-1).to_numpy()
    same &= digest >= 0
    found[at[same]] = digest[same]
    return pa.DictionaryArray.from_arrays(
        pa.array(found, mask=found < 0), steps["rule_id"].dictionary
    )


def _numbered(column: Any, known: dict[str, int]) -> I64:  # noqa: ANN401
    """Equal numbers for equal texts; -1: none."""
    texts = column.dictionary.to_pylist()
    number = np.array([*(known.setdefault(one, len(known)) for one in texts), -1], np.int64)
    found: I64 = number[column.indices.fill_null(len(texts)).to_numpy()]
    return found
