"""The days, in UTC, that rows of packets are filed under in directories of Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.views.packet_json import iso_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import I64

DAY_NS: Final = 24 * 3600 * 10**9


def day(time_ns: int) -> str:
    """``YYYY-MM-DD`` in UTC; "unknown" where no calendar reaches."""
    text = iso_time(time_ns)
    return text[:10] if "T" in text else "unknown"


class Days:
    """Those of some packets, and so of what belongs to them."""

    def __init__(self) -> None:
        self._packet = self._day = np.empty(0, np.int64)

    def take(self, packet: I64, time_ns: I64) -> None:
        """From now on these: their numbers, ascending, and times (epoch), shape (n,) each."""
        self._packet, self._day = packet, time_ns // DAY_NS

    def parts(self, packet: I64, batch: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - pyarrow is optional
        """A pyarrow.RecordBatch by these days; ``packet``: whose each row is."""
        if self._day.min() == self._day.max():
            yield day(int(self._day[0]) * DAY_NS), batch
            return
        days = self._day[np.searchsorted(self._packet, packet)]
        for one in np.unique(days).tolist():
            yield day(one * DAY_NS), batch.take(np.flatnonzero(days == one))
