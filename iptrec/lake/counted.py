"""The row that a recording has of itself in a lake: its facts, and how many packets of which kind came in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from iptrec.lake import tables
from iptrec.recording.rows import lost_events
from iptrec.views import table_rows
from iptrec.views.tables import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.answers.packets import Packets
    from iptrec.recording.rows import Recording
    from iptrec.views.tables import Row


class Counted:
    """What is counted while its rows are made; ``rows``: of each table."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self._between_ns: list[int] = []

    def note(self, time_ns: Any, complete: Any, ambiguous: Any, verdict: Any) -> None:  # noqa: ANN401
        """Take some packets, at least one: columns of pyarrow, the texts with a dictionary."""
        import pyarrow.compute as pc  # noqa: PLC0415 - optional

        between = pc.min_max(time_ns).as_py()
        self._between_ns += [between["min"], between["max"]]
        self.rows["incomplete"] += len(time_ns) - pc.sum(complete).as_py()
        self.rows["ambiguous"] += pc.sum(ambiguous).as_py()
        verdicts = pc.cast(verdict, "string")
        self.rows["unknown"] += pc.sum(pc.equal(verdicts, "UNKNOWN")).as_py() or 0

    def row(
        self, recording: Recording, packets: Packets, name: str, fingerprint: str
    ) -> Iterable[Row]:
        """The row of the table recordings, once all others were taken."""
        ((_, filed),) = table_rows.rows(recording, packets, ("recording",))
        (row,) = filed.rows()
        losses = lost_events(recording)
        facts = dict(zip(BY_NAME["recording"].places, row, strict=True))
        facts |= {
            "recording": name,
            "hostname": facts["host"],
            "first_ns": min(self._between_ns, default=None),
            "last_ns": max(self._between_ns, default=None),
            "losses": len(recording.losses),
            "lost": sum(one.events or 0 for one in losses),
            "uncounted": sum(one.events is None for one in losses),
            "fingerprint": fingerprint,
            "format": tables.FORMAT,
        }
        columns = tables.NAMED["recordings"].columns
        return [tuple(facts.get(one.name, self.rows[one.name]) for one in columns)]
