r"""When a line of a log was written: what dmesg, journalctl, syslog and the kernel itself put before it.

Seconds since the boot are kept as they are: as times they begin in 1970. A time of the day without its zone is
one of this machine's zone (TZ), one without its year is of the last such day before the file was changed.
Where a line has both, syslog's time and the kernel's seconds, the first such line's says when the boot was and
the kernel's seconds are exact to the microsecond. A line without a time has that of the line before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_DAY_NS: Final = 86_400 * _NS
_EARLIEST_NS: Final = 1_000  # 0 is no time
_LATEST_NS: Final = 1 << 62
_LEAP_YEARS: Final = 9  # within so many years there is a 29th of February
_MICROSECONDS: Final = 6  # digits
_SAME_BOOT_NS: Final = 3 * _NS  # so much syslog may be late, or the clock have been set
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}  # fmt: skip

_DAY: Final = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH: Final = b"(?P<month>" + b"|".join(_MONTHS) + b")"
_CLOCK: Final = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
_DATE: Final = rb"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"

# Seconds since the boot: "[12345.678901]", with "<0.000012>" of dmesg -d, "[ C1]" of the caller behind it
_BOOT: Final = re.compile(rb"\[ *(\d{1,12})\.(\d{1,9})(?: *<[ +\d.]*>)?\]")
# "4,1234,12345678,-;": /dev/kmsg as it is
_KMSG: Final = re.compile(rb"^\d{1,10},\d{1,20},(\d{1,18}),[^;]*;")
_DELTA: Final = re.compile(rb"^[^\[]{0,20}\[ *\+(\d{1,12})\.(\d{1,9})\]")  # dmesg -e
_UNIX: Final = re.compile(rb"^(\d{9,12})\.(\d{1,9}) ")
_STAMPED: Final = (
    # 2026-11-30T10:00:00.123456+01:00 (rsyslog, RFC 5424, journalctl -o short-iso, dmesg --time-format iso);
    # Mon 2026-11-30 10:00:00 UTC (journalctl -o short-full)
    re.compile(rb"\b" + _DATE + rb"[T ]" + _CLOCK + rb" ?(?P<zone>Z\b|UTC\b|GMT\b|[+-]\d\d:?\d\d\b)?"),
    # [Mon Nov 30 10:00:00 2026] (dmesg -T)
    re.compile(rb"\[" + _DAY + rb" " + _MONTH + rb" +(?P<day>\d{1,2}) " + _CLOCK + rb" (?P<year>\d{4})\]"),
    # Nov 30 10:00:00, 2026 Nov 30 10:00:00 (syslog, RFC 3164; journalctl -o short)
    re.compile(rb"\b(?:(?P<year>\d{4}) )?" + _MONTH + rb" +(?P<day>\d{1,2}) " + _CLOCK),
    # [Nov30 10:00] (dmesg -e)
    re.compile(rb"\[" + _MONTH + rb"(?P<day>\d{1,2}) (?P<hour>\d\d):(?P<minute>\d\d)\]"),
)  # fmt: skip

NONE, BOOT, DAY = "none", "since-boot", "time-of-day"


@dataclass(slots=True)
class Times:
    """The times of lines one after the other (epoch, ns).

    ``changed_ns``: when the file was last changed. ``backwards``: how often a time was before the line before.
    """

    changed_ns: int
    backwards: int = 0
    last_ns: int = _EARLIEST_NS
    _kind: str = NONE
    _exact_ns: int = 0
    _zone: bool = True
    _year: bool = True
    _booted_ns: int | None = None
    _local: Callable[[datetime], datetime] = field(default=lambda one: one.astimezone())

    def of(self, prefix: bytes) -> int:
        """The time of a line by what is before its message; that of the line before if it tells none."""
        found = self._read(prefix)
        if found is None or not 0 <= found < _LATEST_NS:
            return self.last_ns
        found = max(found, _EARLIEST_NS)
        self.backwards += found < self.last_ns
        self.last_ns = found
        return found

    def told(self) -> dict[str, Any]:
        """How exact they are, for the stream's detail; whole behind the first line.

        ``kind``: `NONE` (only the order is known), `BOOT` or `DAY`. ``exact_ns``: what they are rounded down
        to. ``zone``, ``year``: whether the text told them.
        """
        told: dict[str, Any] = {"kind": self._kind}
        if self._kind != NONE:
            told["exact_ns"] = self._exact_ns
        if self._kind == DAY:
            told |= {"zone": self._zone, "year": self._year}
        return told

    def _read(self, prefix: bytes) -> int | None:
        boot = self._since_boot(prefix)
        stamped = self._time_of_day(prefix)
        if stamped is None:
            if boot is not None:
                self._note(BOOT, 1_000)
                return boot if self._booted_ns is None else self._booted_ns + boot
            if delta := _DELTA.match(prefix):
                return self.last_ns + _nanoseconds(*delta.groups())
            return None
        if boot is None:
            return stamped
        if (
            self._booted_ns is None
            or not -_SAME_BOOT_NS < stamped - boot - self._booted_ns < _SAME_BOOT_NS
        ):
            self._booted_ns = stamped - boot
        return self._booted_ns + boot

    def _since_boot(self, prefix: bytes) -> int | None:
        if found := _BOOT.search(prefix):
            return _nanoseconds(*found.groups())
        if found := _KMSG.match(prefix):
            return int(found[1]) * 1_000
        return None

    def _time_of_day(self, prefix: bytes) -> int | None:
        if found := _UNIX.match(prefix):
            self._note(DAY, 1_000)
            return _nanoseconds(*found.groups())
        for form in _STAMPED:
            if found := form.search(prefix):
                return self._stamped(found.groupdict())
        return None

    def _stamped(self, given: dict[str, bytes | None]) -> int | None:
        month, fraction = given["month"] or b"", given.get("fraction") or b""
        numbers = [
            _MONTHS.get(month) or int(month),
            int(given["day"] or 0),
            int(given["hour"] or 0),
        ]
        numbers += [int(given["minute"] or 0), int(given.get("second") or 0)]
        year, zone = given.get("year"), given.get("zone")
        try:
            found = (
                self._dated(numbers, zone)
                if year is None
                else self._moment(int(year), numbers, zone)
            )
        except (ValueError, OverflowError, OSError):
            return None
        if found is None:
            return None
        exact = 10 ** (9 - len(fraction)) if given.get("second") else 60 * _NS
        self._note(DAY, exact, zone=zone is not None, year=year is not None)
        return found + int(fraction.ljust(9, b"0") or 0)

    def _dated(self, numbers: list[int], zone: bytes | None) -> int | None:
        """Of a time without its year: the last one before the file was changed."""
        last = (_EPOCH + self.changed_ns // 1_000 * _MICROSECOND).year + 1
        for year in range(last, last - _LEAP_YEARS, -1):
            try:
                found = self._moment(year, numbers, zone)
            except ValueError:  # the 29th of February
                continue
            if found <= self.changed_ns + _DAY_NS:
                return found
        return None

    def _moment(self, year: int, numbers: list[int], zone: bytes | None) -> int:
        month, day, hour, minute, second = numbers
        # A leap second (60) is the one before.
        naive = datetime(year, month, day, hour, minute, min(second, 59))  # noqa: DTZ001 - made aware below
        aware = self._local(naive) if zone is None else naive.replace(tzinfo=UTC) - _offset(zone)
        return (aware - _EPOCH) // _MICROSECOND * 1_000

    def _note(self, kind: str, exact_ns: int, *, zone: bool = True, year: bool = True) -> None:
        self._kind = DAY if DAY in (kind, self._kind) else kind
        self._exact_ns = max(self._exact_ns, exact_ns)
        self._zone &= zone
        self._year &= year


def exact(prefix: bytes) -> tuple[bytes, bool]:
    """What a prefix tells to the microsecond, b"" if nothing, and whether no other line has that."""
    if found := _KMSG.match(prefix):
        return found[0], True
    if found := _BOOT.search(prefix) or _UNIX.match(prefix):
        return found[0].strip() if len(found[2]) >= _MICROSECONDS else b"", False
    for form in _STAMPED:
        if (found := form.search(prefix)) and len(
            found.groupdict().get("fraction") or b""
        ) >= _MICROSECONDS:
            return found[0], False
    return b"", False


def _offset(zone: bytes) -> timedelta:
    digits = zone[1:].replace(b":", b"")
    if not digits.isdigit():
        return timedelta(0)
    size = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return -size if zone[:1] == b"-" else size


def _nanoseconds(seconds: bytes, fraction: bytes) -> int:
    return int(seconds) * _NS + int(fraction.ljust(9, b"0"))
