"""The rows of one recording in a lake of a published schema: an event a packet, and the recording's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iptrec.lake.counted import Counted
from iptrec.lake.rows import batch_of
from iptrec.views import event_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.packets import Packets
    from iptrec.recording.rows import Recording
    from iptrec.views.events import Schema


class EventRows:
    """As `rows.Rows`; there are no ``rules``: each event has that which decided."""

    def __init__(self, recording: Recording, packets: Packets, name: str, schema: Schema) -> None:
        self._recording, self._packets, self._name, self._schema = recording, packets, name, schema
        self._counted = Counted()
        self.rules: dict[str, tuple[str | None, ...]] = {}

    def batches(self) -> Iterator[tuple[str, Any]]:
        """(table, rows): plain columns, named as the fields are."""
        import pyarrow.compute as pc  # noqa: PLC0415 - optional

        schema = self._schema
        own = schema.number.rpartition(".")[0]
        for batch in self._packets.batches(paths=False):
            if not len(batch.positions):
                continue
            found = event_columns.batch(schema.filed(batch, self._recording.facts, self._name))
            flags = (found.column(f"{own}.{one}") for one in ("complete", "ambiguous", "verdict"))
            self._counted.note(found.column(schema.time), *flags)
            self._counted.rows["packets"] += len(found)
            self._counted.rows["steps"] += pc.sum(found.column(f"{own}.steps")).as_py()
            yield schema.table, found

    def contents(self, known: set[str]) -> Any:  # noqa: ANN401, ARG002
        """No rules."""
        return batch_of("rules", [])

    def itself(self, fingerprint: str) -> Any:  # noqa: ANN401
        """The row of the table recordings, once all others were taken."""
        row = self._counted.row(self._recording, self._packets, self._name, fingerprint)
        return batch_of("recordings", row)
