"""Times of what dmesg, journalctl, syslog and people put before a line."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.pasted.prefixes import Times

CHANGED = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 10**9
SECOND = 10**9


@pytest.fixture(autouse=True)
def _berlin(monkeypatch):
    """Where the file is imported it is an hour later than UTC in winter."""
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(*moment, ns=0):
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * SECOND + ns


NOV_30 = utc(2026, 11, 30, 10)
LOCAL = utc(2026, 11, 30, 9)  # 10 h in Berlin
BOOT = {"kind": "since-boot", "exact_ns": 1000}


def day(exact_ns, *, zone=True, year=True):
    return {"kind": "time-of-day", "exact_ns": exact_ns, "zone": zone, "year": year}


PREFIXES = {
    "": (1000, {"kind": "none"}),
    "something: ": (1000, {"kind": "none"}),
    "[12345.678901] ": (12345_678901000, BOOT),
    "<4>[    0.000012] ": (12000, BOOT),
    "<4>[12345.678901][ C1] ": (12345_678901000, BOOT),
    "[12345.678901] [   T42] ": (12345_678901000, BOOT),
    "[12345.678901 <    0.000012>] ": (12345_678901000, BOOT),
    "kern  :warn  : [12345.678901] ": (12345_678901000, BOOT),
    "[12345.678901] host kernel: ": (12345_678901000, BOOT),  # journalctl -o short-monotonic
    "4,1234,12345678901,-;": (12345_678901000, BOOT),
    "4,1234,12345678901,-,caller=T1;": (12345_678901000, BOOT),
    "[Mon Nov 30 10:00:00 2026] ": (LOCAL, day(SECOND, zone=False)),
    "[Nov30 10:00] ": (LOCAL, day(60 * SECOND, zone=False, year=False)),
    "Nov 30 10:00:00 host kernel: ": (LOCAL, day(SECOND, zone=False, year=False)),
    "<4>Nov 30 10:00:00 host kernel: ": (LOCAL, day(SECOND, zone=False, year=False)),
    "Dec  9 10:00:00 host kernel: ": (utc(2025, 12, 9, 9), day(SECOND, zone=False, year=False)),
    "Feb 29 10:00:00 host kernel: ": (utc(2024, 2, 29, 9), day(SECOND, zone=False, year=False)),
    "2026 Nov 30 10:00:00 host kernel: ": (LOCAL, day(SECOND, zone=False)),
    "Nov 30 10:00:00.123456 host kernel: ": (LOCAL + 123456000, day(1000, zone=False, year=False)),
    "Nov 30 10:00:00 host kernel: [12345.678901] ": (LOCAL, day(SECOND, zone=False, year=False)),
    "2026-11-30T10:00:00+0000 host kernel: ": (NOV_30, day(SECOND)),
    "2026-11-30T10:00:00+00:00 host kernel: ": (NOV_30, day(SECOND)),
    "2026-11-30T10:00:00.123456+0100 host kernel: ": (LOCAL + 123456000, day(1000)),
    "2026-11-30T10:00:00,123456+01:00 ": (LOCAL + 123456000, day(1000)),  # dmesg --time-format iso
    "2026-11-30T10:00:00.5-08:00 host kernel: ": (NOV_30 + 8 * 3600 * SECOND + SECOND // 2, day(10**8)),
    "2026-11-30 10:00:00 host kernel: ": (LOCAL, day(SECOND, zone=False)),
    "Mon 2026-11-30 10:00:00 UTC host kernel: ": (NOV_30, day(SECOND)),
    "<4>1 2026-11-30T10:00:00.123456Z host kernel - - - ": (NOV_30 + 123456000, day(1000)),
    '<4>1 2026-11-30T10:00:00Z host kernel - - [meta x="1"] [12345.678901] ': (NOV_30, day(SECOND)),
    "1796032800.123456 host kernel: ": (NOV_30 + 123456000, day(1000)),
    "Nov 31 10:00:00 host kernel: ": (1000, {"kind": "none"}),
    "2026-13-30T10:00:00Z host kernel: ": (1000, {"kind": "none"}),
    "9999-12-31T23:59:59Z ": (1000, {"kind": "time-of-day", "exact_ns": SECOND, "zone": True, "year": True}),
    "[99999999999999999.0] ": (1000, {"kind": "none"}),
}  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix):
    """When, and how exact that is."""
    times = Times(CHANGED)
    assert (times.of(prefix.encode()), times.told()) == PREFIXES[prefix]


def test_seconds_of_the_kernel_beside_a_time_of_the_day():
    """Syslog is late: the first line tells when the boot was, the kernel how far the others are from it."""
    times = Times(CHANGED)
    found = [
        times.of(b"Nov 30 10:00:%02d host kernel: [%s] " % one)
        for one in ((0, b"100.000001"), (0, b"100.000201"), (2, b"101.000000"), (9, b"5.000000"))
    ]
    assert [one - LOCAL for one in found] == [0, 200_000, 999_999_000, 9 * SECOND]


def test_lines_without_a_time_have_that_of_the_line_before():
    """Of dmesg -e the others tell how much later they are."""
    times = Times(CHANGED)
    found = [times.of(one) for one in (b"[Nov30 10:00] ", b"[  +0.000012] ", b"", b"[  +1.5] ")]
    assert [one - LOCAL for one in found] == [0, 12_000, 12_000, 1_500_012_000]
    assert times.told()["exact_ns"] == 60 * SECOND


def test_times_that_go_back_are_counted():
    """As journalctl -r prints them."""
    times = Times(CHANGED)
    assert [times.of(b"[%d.0] " % one) for one in (3, 2, 1)] == [3 * SECOND, 2 * SECOND, SECOND]
    assert times.backwards == 2


@given(
    st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([one.encode() for one in PREFIXES])))
)
def test_any_text(prefixes):
    """No text makes an error or a time that a recording cannot hold."""
    times = Times(CHANGED)
    for one in prefixes:
        assert 0 < times.of(one) < 1 << 62
    assert times.told()["kind"] in {"none", "since-boot", "time-of-day"}
