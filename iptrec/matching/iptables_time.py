"""``-m time`` of iptables, as net/netfilter/xt_time.c judges it; in UTC, or by the kernel's own timezone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from iptrec.matching.moments import MINUTE_S, NO_TIMEZONE, seconds, unknown

if TYPE_CHECKING:
    from iptrec.matching.facts import Facts

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MIDNIGHT, _LAST = "00:00:00", "23:59:59"
_KERNELTZ: Final = "--kerneltz"


def within(value: str, facts: Facts) -> bool | None:
    """Whether a packet came in the time that all options together ask for; None where it may have or not.

    ``value``: the options, with their values.
    """
    words = value.split()
    west_min = _west_min(facts) if _KERNELTZ in words else 0
    if west_min is None:
        return None
    options = {
        word: words[at + 1] if at + 1 < len(words) else ""
        for at, word in enumerate(words)
        if word.startswith("--")
    }
    found = {_fits(options, moment - MINUTE_S * west_min) for moment in seconds(facts)}
    return found.pop() if len(found) == 1 else None


def why_unknown(value: str, facts: Facts) -> str:
    """Why it is not known whether it did."""
    if _KERNELTZ in value.split() and _west_min(facts) is None:
        return NO_TIMEZONE
    return unknown(facts)


def _west_min(facts: Facts) -> int | None:
    return None if facts.timezone is None else facts.timezone.west_min


def _fits(options: dict[str, str], seconds: int) -> bool:
    now = datetime.fromtimestamp(seconds, UTC)
    if not _date(options, "--datestart", now) <= now <= _date(options, "--datestop", now):
        return False
    start, stop = options.get("--timestart", _MIDNIGHT), options.get("--timestop", _LAST)
    clock = now.strftime("%H:%M:%S")
    if start < stop:
        if not start <= clock <= stop:
            return False
    elif stop < clock < start:
        return False
    elif "--contiguous" in options and clock <= stop:
        now -= timedelta(days=1)
    weekdays, monthdays = options.get("--weekdays"), options.get("--monthdays")
    if weekdays is not None and _DAYS[now.weekday()] not in weekdays.split(","):
        return False
    return monthdays is None or str(now.day) in monthdays.split(",")


def _date(options: dict[str, str], name: str, default: datetime) -> datetime:
    return datetime.fromisoformat(options[name]).replace(tzinfo=UTC) if name in options else default
