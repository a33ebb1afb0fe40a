"""When a packet was at a rule, as conditions of time look at it (net/netfilter/nft_meta.c, xt_time.c).

The hour of nft is that of UTC in the kernel, which nft prints in the timezone of who asks: recorders ask in
UTC. The day is that of the kernel's own timezone (sys_tz), which is none but where somebody has set it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from iptrec.matching.field import Field, by_names, quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.decode.rulesets.nft_matches import Scalar
    from iptrec.matching.facts import Facts
    from iptrec.matching.field import Read

SECOND_NS: Final = 1_000_000_000
MINUTE_S: Final = 60
_HOUR_S, _DAY_S = 3600, 86400
# Of 1970-01-01, see DAYS
_THURSDAY: Final = 4
DAYS: Final = {
    "Sunday": 0, "Monday": 1, "Tuesday": 2, "Wednesday": 3, "Thursday": 4, "Friday": 5, "Saturday": 6,
}  # fmt: skip
# Conditions of whole seconds read the clock of the last tick (ktime_get_real_seconds), at HZ=100 10 ms ago;
# nft's time is that of the very moment (ktime_get_real_ns).
TICK_NS: Final = 10_000_000
# A packet whose time is known no better may have been there at any.
_LONGEST_S: Final = 60
NO_TIMEZONE: Final = "the timezone was not recorded"


def seconds(facts: Facts, behind_ns: int = TICK_NS) -> range:
    """All seconds since 1970 in which it may have been; none where that is not known, or they are many.

    ``behind_ns``: how far the clock that is looked at may be behind.
    """
    first_ns, last_ns = facts.time_ns
    first, last = max(first_ns - behind_ns, 0) // SECOND_NS, last_ns // SECOND_NS
    return range(first, last + 1) if first and last - first <= _LONGEST_S else range(0)


def unknown(facts: Facts, behind_ns: int = TICK_NS) -> str:
    """Why it is not known when a packet was there; "" where it is."""
    return (
        ""
        if len(seconds(facts, behind_ns)) == 1
        else "when it was there is not known to the second"
    )


def unjudged(facts: Facts) -> str:
    """Why it is not known whether a condition of nft about time holds."""
    return NO_TIMEZONE if facts.timezone is None else unknown(facts)


def unjudged_time(facts: Facts) -> str:
    """Likewise, about nanoseconds."""
    return NO_TIMEZONE if facts.timezone is None else unknown(facts, behind_ns=0)


def unjudged_day(facts: Facts) -> str:
    """Likewise, about the day of the week."""
    lacks = facts.timezone is None or facts.timezone.west_min is None
    return NO_TIMEZONE if lacks else unknown(facts)


def _hours(facts: Facts) -> frozenset[int] | None:
    """Seconds of the day."""
    if facts.timezone is None:  # in which nft printed what the rule asks for
        return None
    return frozenset(one % _DAY_S for one in seconds(facts)) or None


def _days(facts: Facts) -> frozenset[int] | None:
    west_min = None if facts.timezone is None else facts.timezone.west_min
    if west_min is None:
        return None
    local = (one - MINUTE_S * west_min for one in seconds(facts))
    return frozenset((_THURSDAY + one // _DAY_S) % len(DAYS) for one in local) or None


def _times(facts: Facts) -> frozenset[int] | None:
    """Nanoseconds: both ends, each second in between and what is next to it, for rules have whole seconds."""
    whole = seconds(facts, behind_ns=0)
    if facts.timezone is None or not whole:
        return None
    beside = (one * SECOND_NS + by for one in whole for by in (-1, 0, 1))
    first, last = facts.time_ns
    return frozenset({first, last, *(one for one in beside if first < one < last)})


def _hour(value: Scalar) -> int:
    """``06:00``, ``06:00:30``."""
    hour, minute, *rest = map(int, str(value).split(":"))
    (second,) = rest or (0,)
    return hour * _HOUR_S + minute * MINUTE_S + second


def _time(value: Scalar) -> int:
    """``2030-01-01 00:00:00``. Raises ValueError for a number, which nft does not print."""
    told = datetime.fromisoformat(str(value)).replace(tzinfo=UTC)
    return int(told.timestamp()) * SECOND_NS


def _told(read: Read, text: str) -> Callable[[Facts], str | None]:
    """The last of them, in which it was logged, as a reader knows it, where any is known."""

    def own(facts: Facts) -> str | None:
        if not read(facts):
            return None
        return f"{datetime.fromtimestamp(seconds(facts)[-1], UTC):{text}} UTC"

    return own


def _own_day(facts: Facts) -> str | None:
    known = _days(facts)
    return next((name for name, day in DAYS.items() if day in (known or ())), None)


FIELDS: Final = {
    "meta hour": Field(_hours, _hour, _told(_hours, "%H:%M:%S"), quoted),
    "meta day": Field(_days, by_names(DAYS), _own_day, quoted),
    "meta time": Field(_times, _time, _told(_times, "%Y-%m-%d %H:%M:%S"), quoted),
}
