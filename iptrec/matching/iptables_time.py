"""``-m time`` of iptables, as net/netfilter/xt_time.c judges it; in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iptrec.matching.facts import Facts

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SECOND_NS: Final = 1_000_000_000
_MIDNIGHT, _LAST = "00:00:00", "23:59:59"


def within(value: str, facts: Facts) -> bool | None:
    """Whether a packet came in the time that all options together ask for; None where it may have or not.

    ``value``: the options, with their values.
    """
    words = value.split()
    if (
        "--kerneltz" in words or not facts.time_ns[1]
    ):  # the kernel's idea of a timezone is not recorded
        return None
    options = {
        word: words[at + 1] if at + 1 < len(words) else ""
        for at, word in enumerate(words)
        if word.startswith("--")
    }
    found = {_fits(options, moment // _SECOND_NS) for moment in facts.time_ns}
    return found.pop() if len(found) == 1 else None


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
