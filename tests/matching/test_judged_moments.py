"""Conditions of time: by when a packet was there, as far as that is known, and by the kernel's timezone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from test_nft_match import FACTS, match, meta, native

from iptrec.decode.rulesets import iptables_save
from iptrec.matching import judge
from iptrec.matching.facts import Timezone

SECOND_NS = 1_000_000_000
NOON = int(datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()) * SECOND_NS  # a Saturday
UTC_TZ, WEST, UNKNOWN = Timezone(0), Timezone(13 * 60), Timezone(None)
NO_TIMEZONE = "the timezone was not recorded"
NOT_KNOWN = "when it was there is not known to the second"
HOUR, DAY, TIME = (meta(one) for one in ("hour", "day", "time"))


def there(first_s=0.5, last_s=0.5, timezone=UTC_TZ):
    """A packet some seconds after noon."""
    times = (NOON + int(one * SECOND_NS) for one in (first_s, last_s))
    return replace(FACTS, time_ns=tuple(times), timezone=timezone)


TO_NOON = match(HOUR, {"range": ["11:00", "12:00"]})
NATIVE = [
    (match(HOUR, "12:00"), there(), True, None),
    (match(HOUR, "12:00:01"), there(), False, 'meta hour "12:00:01" (it is 12:00:00 UTC)'),
    (TO_NOON, there(-0.5, 0.5), True, None),
    (TO_NOON, there(0, 1.5), None, f'meta hour "11:00"-"12:00" ({NOT_KNOWN})'),
    (TO_NOON, there(0, 100), None, f'meta hour "11:00"-"12:00" ({NOT_KNOWN})'),
    # What comes to be and ends while it may have been there.
    (match(HOUR, "12:00:03"), there(0, 9), None, f'meta hour "12:00:03" ({NOT_KNOWN})'),
    (match(HOUR, "12:00", ">="), there(timezone=None), None, f'meta hour >= "12:00" ({NO_TIMEZONE})'),
    (match(HOUR, "12:00", ">="), there(timezone=UNKNOWN), True, None),
    (match(HOUR, "noon"), there(), None, 'meta hour "noon"'),
    # The kernel's second is that of its last tick; its nanoseconds are those of the moment.
    (match(HOUR, "12:00"), there(0.005, 0.005), None, f'meta hour "12:00" ({NOT_KNOWN})'),
    (match(HOUR, "11:00"), there(0.005, 0.005), False, 'meta hour "11:00" (it is 12:00:00 UTC)'),
    (match(DAY, "Saturday"), there(-43199.995, -43199.995), None, f'meta day "Saturday" ({NOT_KNOWN})'),
    (match(TIME, "2026-11-28 12:00:00", "<"), there(0.005, 0.005), False,
     'meta time < "2026-11-28 12:00:00" (it is 2026-11-28 12:00:00 UTC)'),
    # Told is the second in which it was logged, as in the packet's line.
    (match(HOUR, "11:00"), there(0.5, 1.5), False, 'meta hour "11:00" (it is 12:00:01 UTC)'),
    # Either a range, which it is outside of, or hour < "11:00" hour > "11:00", which nothing is.
    (match(HOUR, {"range": ["11:00", "11:00"]}, "!="), there(), None, 'meta hour != "11:00"-"11:00"'),
    (match(HOUR, {"range": ["12:00", "12:00"]}, "!="), there(), False,
     'meta hour != "12:00"-"12:00" (it is 12:00:00 UTC)'),
    (match(HOUR, {"range": ["12:00", "12:00"]}), there(), True, None),
    (match(HOUR, {"range": ["11:00", "11:00"]}), there(), False,
     'meta hour "11:00"-"11:00" (it is 12:00:00 UTC)'),
    (match(DAY, {"range": ["Friday", "Friday"]}, "!="), there(), None, 'meta day != "Friday"-"Friday"'),
    (match(TIME, {"range": ["2026-01-01 00:00:00", "2026-01-01 00:00:00"]}, "!="), there(), None,
     'meta time != "2026-01-01 00:00:00"-"2026-01-01 00:00:00"'),
    (match(DAY, "Saturday"), there(), True, None),
    (match(DAY, "Saturday"), there(timezone=WEST), False, 'meta day "Saturday" (it is Friday)'),
    (match(DAY, "Saturday"), there(timezone=UNKNOWN), None, f'meta day "Saturday" ({NO_TIMEZONE})'),
    (match(DAY, "Saturday"), there(timezone=None), None, f'meta day "Saturday" ({NO_TIMEZONE})'),
    (match(TIME, "2026-11-28 12:00:00", "<"), there(), False,
     'meta time < "2026-11-28 12:00:00" (it is 2026-11-28 12:00:00 UTC)'),
    (match(TIME, "2026-11-28 12:00:01", "<"), there(), True, None),
    (match(TIME, "2026-11-28 12:00:01", "<"), there(0, 2), None,
     f'meta time < "2026-11-28 12:00:01" ({NOT_KNOWN})'),
    # No packet is there at a whole second.
    (match(TIME, "2026-11-28 12:00:00"), there(0.1, 0.1), False,
     'meta time "2026-11-28 12:00:00" (it is 2026-11-28 12:00:00 UTC)'),
    (match(TIME, "2026-11-28 12:00:01"), there(0, 2), None, f'meta time "2026-11-28 12:00:01" ({NOT_KNOWN})'),
    (match(TIME, 7), there(), None, 'meta time "7"'),
]  # fmt: skip
IPTABLES = [
    ("-m time --weekdays Sat", there(), True),
    ("-m time --weekdays Sat", there(timezone=None), True),
    ("-m time --weekdays Sat --kerneltz", there(), True),
    ("-m time --weekdays Sat --kerneltz", there(timezone=WEST), False),
    ("-m time --weekdays Sat --kerneltz", there(timezone=UNKNOWN), None),
    ("-m time --weekdays Sat --kerneltz", there(timezone=None), None),
    ("-m time --datestop 2026-11-28T00:00:00 --kerneltz", there(timezone=WEST), True),
    ("-m time --timestart 12:00:03 --timestop 12:00:05", there(0, 9), None),
    ("-m time --timestart 12:00:00", there(0.005, 0.005), None),
    ("-m time --timestart 11:59:59", there(0.005, 0.005), True),
]


@pytest.mark.parametrize(("statement", "facts", "fits", "because"), NATIVE)
def test_native_rules(statement, facts, fits, because):
    found = judge(native(statement), facts)
    assert (found.fits, found.because) == (fits, because)


@pytest.mark.parametrize(("spec", "facts", "fits"), IPTABLES)
def test_rules_of_iptables(spec, facts, fits):
    saved = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {spec}\nCOMMIT\n"
    (rule,) = iptables_save.parse(saved.encode()).tables["filter"]["INPUT"].rules
    found = judge(rule, facts)
    assert found.fits is fits
    if fits is None:
        lacks = facts.timezone is None or facts.timezone.west_min is None
        assert found.remark == (NO_TIMEZONE if lacks else NOT_KNOWN)
