"""Times as they are typed; the tests' own zone is an hour ahead of UTC (conftest.py)."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from iptrec.cli.moments import moment
from iptrec.errors import UsageError
from iptrec.views.timestamps import Clock

S = 10**9
DAY = 86400 * S
START = 1_795_446_184_886_261_999  # 2026-11-23T15:03:04.886261999Z
MIDNIGHT = START - START % DAY  # of UTC


def recording(lasts_ns=600 * S, start=START):
    return SimpleNamespace(facts=SimpleNamespace(started_ns=start), end_ns=start + lasts_ns)


def clock(hours, minutes=0, seconds=0):
    """A time on that day, in UTC."""
    return MIDNIGHT + (hours * 3600 + minutes * 60 + seconds) * S


LOCAL = {
    "16:05": clock(15, 5),
    "9:05": clock(8, 5),
    "16:05:06": clock(15, 5, 6),
    "16:05:06.5": clock(15, 5, 6) + S // 2,
    "16:05:06.123456789": clock(15, 5, 6) + 123_456_789,
    "15:05Z": clock(15, 5),
    "17:05+02:00": clock(15, 5),
    "2026-11-23": clock(-1),
    "2026-11-23 UTC+01:00": clock(-1),
    "2026-11-23 UTC": clock(0),
    "2026-11-23T16:05": clock(15, 5),
    "2026-11-23 16:05:06": clock(15, 5, 6),
    "2026-11-23T15:05:06Z": clock(15, 5, 6),
    "2026-11-23T15:05:06.123456789Z": clock(15, 5, 6) + 123_456_789,
    "2026-07-01T12:00": clock(10) - 145 * DAY,
    "10s": START + 10 * S,
    "1.5h": START + 5400 * S,
    "-5s": START + 595 * S,
}


@pytest.mark.parametrize("text", LOCAL)
def test_local(text):
    """Without a zone it is the reader's, without a date that of the recording."""
    assert moment(recording(), "--since", text) == LOCAL[text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("15:05", clock(15, 5)), ("2026-11-23T15:05", clock(15, 5)), ("17:05+02:00", clock(15, 5))],
)
def test_utc(text, expected):
    assert moment(recording(), "--since", text, utc=True) == expected


@pytest.mark.parametrize("utc", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_what_we_print_can_be_typed(utc, exact):
    """Each of our own texts means the time that it was made of, as far as it tells that."""
    told = Clock(utc=utc, exact=exact)
    expected = START if exact else START - START % 10**6
    for text in (told.time(START), told.full(START)):
        assert moment(recording(), "--since", text, utc=utc) == expected
    day = moment(recording(), "--since", told.day(START), utc=utc)
    assert day == MIDNIGHT - (0 if utc else 3600 * S)


LATE = clock(22, 50)  # ten to midnight in the tests' zone
NEAREST = {
    "23:55": LATE + 300 * S,
    "0:05": LATE + 900 * S,
    "23:00": LATE - 3000 * S,
    "1:00": LATE + 4200 * S,
}


@pytest.mark.parametrize("text", NEAREST)
def test_around_midnight(text):
    """A recording from 23:50 to 00:10: the time in it, or else the nearest."""
    assert moment(recording(1200 * S, LATE), "--since", text) == NEAREST[text]


@pytest.mark.parametrize("days", [2, 3, 400, 10**5])
def test_several_days(days):
    """Nobody guesses which."""
    with pytest.raises(
        UsageError, match=r"--since '16:30': .* on several days; write the date as well"
    ):
        moment(recording(days * DAY), "--since", "16:30")


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "25:00", "10", "10:60", "2026-13-01", "10:02:07,", "1e9s", "2026-11-23 UTC+1",
     "10:02 PM"],
)  # fmt: skip
def test_no_time(text):
    """One line that says what is."""
    with pytest.raises(UsageError, match=r"is not a time; write 10:02, 2026-01-31T10:02:07"):
        moment(recording(), "--until", text)


@pytest.mark.parametrize("start", [-(2**63), 2**63 - 1])
@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31T23:59", "10:02", "0:00+14:00"])
def test_the_ends_of_the_calendar(start, text):
    """A time or a line, whatever a stranger's recording says when it began."""
    with contextlib.suppress(UsageError):
        assert isinstance(moment(recording(0, start), "--since", text), int)
