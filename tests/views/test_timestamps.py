"""Times as people read them; the tests' own zone is an hour ahead of UTC, two in summer (conftest.py)."""

from __future__ import annotations

import os
import time

import pytest

from iptrec.views.timestamps import Clock, Days

WINTER = 1_795_446_184_886_261_999  # 2026-11-23T15:03:04.886261999Z
SUMMER = WINTER - 150 * 86400 * 10**9
LOCAL, UTC = Clock(), Clock(utc=True)
FULL = {
    "local": (LOCAL, WINTER, "2026-11-23T16:03:04.886+01:00"),
    "summer": (LOCAL, SUMMER, "2026-06-26T17:03:04.886+02:00"),
    "utc": (UTC, WINTER, "2026-11-23T15:03:04.886Z"),
    "exact": (Clock(exact=True), WINTER, "2026-11-23T16:03:04.886261999+01:00"),
    "cut, not rounded": (UTC, 10**9 - 1, "1970-01-01T00:00:00.999Z"),
    "before 1970": (UTC, -1, "1969-12-31T23:59:59.999Z"),
    "the earliest": (UTC, -(2**63), "1677-09-21T00:12:43.145Z"),
    "no calendar": (LOCAL, 2**70, str(2**70)),
}


@pytest.mark.parametrize("case", FULL)
def test_full(case):
    """Date, time and zone."""
    clock, time_ns, expected = FULL[case]
    assert clock.full(time_ns) == expected
    day = clock.day(time_ns)
    assert day == "" or expected.startswith(day.split()[0])
    assert clock.time(time_ns) in expected


def test_day():
    """The zone stands with the date; UTC is said as such."""
    assert [LOCAL.day(WINTER), LOCAL.day(SUMMER)] == [
        "2026-11-23 UTC+01:00",
        "2026-06-26 UTC+02:00",
    ]
    assert UTC.day(WINTER) == "2026-11-23 UTC"
    assert LOCAL.day(2**70) == ""


def test_span():
    """What both times have in common stands once."""
    hour = 3600 * 10**9
    assert LOCAL.span(WINTER, WINTER + 1) == LOCAL.full(WINTER)
    assert LOCAL.span(WINTER, WINTER + hour) == f"{LOCAL.full(WINTER)} to 17:03:04.886"
    assert LOCAL.span(WINTER, WINTER + 9 * hour).endswith(" to 2026-11-24T01:03:04.886+01:00")
    assert LOCAL.span(SUMMER, WINTER).endswith(" to 2026-11-23T16:03:04.886+01:00")


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("IST-5:30", "20:33:04.886+05:30"),
        ("NST3:30", "11:33:04.886-03:30"),
        ("UTC0", "15:03:04.886Z"),
        ("nonsense", "15:03:04.886Z"),
    ],
)
def test_the_zone_is_the_readers(monkeypatch, zone, expected):
    """TZ, as of tzset(3)."""
    before = os.environ["TZ"]
    try:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert LOCAL.full(WINTER) == f"2026-11-23T{expected}"
    finally:
        monkeypatch.setenv("TZ", before)
        time.tzset()


def test_days_are_told_where_they_change():
    """With their zone; a time that is in no calendar changes nothing."""
    day = 86_400 * 10**9
    times = [0, 1, day, 10**21, day + 1, 180 * day, 0]
    assert [Days(Clock()).line(0)] == ["-- 1970-01-01 UTC+01:00 --\n"]
    days = Days(Clock())
    assert [days.line(one).split()[1:3] for one in times] == [
        ["1970-01-01", "UTC+01:00"],
        [],
        ["1970-01-02", "UTC+01:00"],
        [],
        [],
        ["1970-06-30", "UTC+02:00"],
        ["1970-01-01", "UTC+01:00"],
    ]
