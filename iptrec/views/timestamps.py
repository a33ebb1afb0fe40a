"""Times as people read them: of their own zone, or UTC. What machines read has `packet_json.iso_time`.

The local zone is that of the reader: TZ, or /etc/localtime (tzset(3)).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final


@dataclass(frozen=True, slots=True)
class Clock:
    """How times are printed, always cut, never rounded. All take ns since 1970.

    ``utc``: not in the local zone. ``exact``: with all digits, not with milliseconds.
    """

    utc: bool = False
    exact: bool = False

    def day(self, time_ns: int) -> str:
        """The date and the zone: 2026-11-23 UTC+01:00; empty where no calendar reaches."""
        moment = self._moment(time_ns)
        return "" if moment is None else f"{moment.date()} UTC{_offset(moment)}"

    def time(self, time_ns: int) -> str:
        """The time of day: 16:03:04.886; the plain number where no calendar reaches."""
        moment = self._moment(time_ns)
        return str(time_ns) if moment is None else self._time(moment, time_ns)

    def full(self, time_ns: int) -> str:
        """Date, time of day and zone: 2026-11-23T16:03:04.886+01:00, or Z; the plain number as `time`."""
        moment = self._moment(time_ns)
        if moment is None:
            return str(time_ns)
        return f"{moment.date()}T{self._time(moment, time_ns)}{_offset(moment) or 'Z'}"

    def on(self, day: str, time_ns: int) -> str:
        """The time alone on a day that was said (`day`), all of it on another one."""
        return self.time(time_ns) if self.day(time_ns) == day else self.full(time_ns)

    def span(self, first_ns: int, last_ns: int) -> str:
        """From one time to the other.

        The second has a date and a zone only where these differ; where they read alike there is one.
        """
        first = self.full(first_ns)
        if self.full(last_ns) == first:
            return first
        return f"{first} to {self.on(self.day(first_ns), last_ns)}"

    def _moment(self, time_ns: int) -> datetime | None:
        try:
            moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
            return moment if self.utc else moment.astimezone()
        except (ValueError, OverflowError, OSError):
            return None

    def _time(self, moment: datetime, time_ns: int) -> str:
        rest = f"{time_ns % 1_000_000_000:09d}"
        whole = moment.isoformat()[11:19]  # strftime takes three times as long
        return f"{whole}.{rest if self.exact else rest[:3]}"


LOCAL: Final = Clock()


class Days:
    """The date and the zone of times, told where they change."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._day = ""
        self._second: int | None = None  # that of the last time

    def line(self, time_ns: int) -> str:
        """A line with its newline; nothing where they are as before, or no calendar reaches."""
        if time_ns // 10**9 == self._second:
            return ""
        self._second = time_ns // 10**9
        day = self._clock.day(time_ns)
        if day in ("", self._day):
            return ""
        self._day = day
        return f"-- {day} --\n"


def _offset(moment: datetime) -> str:
    """+01:00; nothing for UTC."""
    return moment.isoformat()[19:] if moment.utcoffset() else ""
