"""Times as they are typed: all that we print ourselves, and what is short to type."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.api import Recording

_UNITS: Final = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DISTANCE: Final = re.compile(r"(-?)([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_CLOCK: Final = re.compile(
    r"([0-9]{1,2})(:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)"
)
_DAY: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}) UTC([+-][0-9]{2}:[0-9]{2})?")
_PART: Final = re.compile(r"[.,]([0-9]{1,9})")
_MOST_DAYS: Final = 366  # of a recording in which a time without a date is looked for


def moment(recording: Recording, option: str, text: str, *, utc: bool = False) -> int:
    """A time as epoch ns: absolute, or after the start, or before the end with "-".

    One without a zone is local, or UTC. One without a date is of the day on which was recorded.
    """
    if found := _DISTANCE.fullmatch(text):
        distance = int(float(found[2]) * _UNITS[found[3]])
        return recording.end_ns - distance if found[1] else recording.facts.started_ns + distance
    try:
        return _absolute(recording, option, text, utc=utc)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {text!r} is not a time; write 10:02, 2026-01-31T10:02:07, 10s (after the start) or -5s"
            " (before the end)"
        ) from None


def _absolute(recording: Recording, option: str, text: str, *, utc: bool) -> int:
    if found := _DAY.fullmatch(text):  # as `show` prints it
        return epoch_ns(f"{found[1]}T00:00{found[2] or 'Z'}", utc=utc)
    if not (found := _CLOCK.fullmatch(text)):
        return epoch_ns(text, utc=utc)
    clock = f"{found[1]:0>2}{found[2]}"
    first, last = recording.facts.started_ns, recording.end_ns
    moments = [epoch_ns(f"{day}T{clock}", utc=utc) for day in _days(first, last, clock, utc=utc)]
    within = [one for one in moments if first <= one <= last]
    if len(within) > 1:
        raise UsageError(
            f"{option} {text!r}: the recording has that time on several days; write the date as well,"
            f" such as 2026-01-31T{clock}"
        )
    return min(within or moments, key=lambda one: min(abs(one - first), abs(one - last)))


def _days(first_ns: int, last_ns: int, clock: str, *, utc: bool) -> Iterator[date]:
    """The dates of the recording, in the zone of a time of day."""
    zone = datetime.fromisoformat(f"2000-01-01T{clock}").tzinfo or (UTC if utc else None)
    day, last = (
        datetime.fromtimestamp(one // 10**9, UTC).astimezone(zone).date()
        for one in (first_ns, last_ns)
    )
    yield day
    for after in range(1, min((last - day).days, _MOST_DAYS) + 1):
        yield day + timedelta(days=after)


def epoch_ns(text: str, *, utc: bool) -> int:
    """What ISO 8601 writes, to the nanosecond; Python keeps microseconds. Raises ValueError, OverflowError."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC) if utc else time.astimezone()
    part = found[1] if (found := _PART.search(text)) else ""
    return int(time.replace(microsecond=0).timestamp()) * 10**9 + int(part.ljust(9, "0"))
