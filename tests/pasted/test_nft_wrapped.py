"""Text of nft monitor trace that a mail has wrapped is read as it was printed."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from iptrec.pasted.nft_wrapped import straightened, unwrapped

DATA = Path(__file__).parents[1] / "data" / "pasted"
LINES = [one.rstrip() for one in (DATA / "monitor.txt").read_text().splitlines()]
POLICY = b"trace id aaaaaaaa inet fw input policy accept"


def wrapped(line, width):
    """As mails do it: words that are longer stay whole."""
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [line]


@pytest.mark.parametrize("width", [72, 76, 78, 80])
def test_wrapped(width):
    """Each line that the mail made of one is that one again; nft's own broken lines stay so."""
    own = [one for one in LINES if one.startswith("trace id") and not one.endswith("{")]
    assert any(len(one) > 200 for one in own)
    pieces = [part.encode() for one in own for part in wrapped(one, width)]
    assert [one.decode() for one in unwrapped(pieces)] == own


def test_not_wrapped():
    """What was not wrapped stays as it is."""
    lines = [one.encode() for one in LINES]
    assert [one.decode() for one in unwrapped(lines)] == LINES


@pytest.mark.parametrize(
    "line",
    [b"", b"# nft list ruleset", b"\t\tcounter packets 1 bytes 2", b"$ " + b"x" * 70, POLICY],
)
def test_what_comes_behind(line):
    """It is no part of a line that is whole, or too short to have been wrapped."""
    for first in (POLICY, POLICY.removesuffix(b" accept"), b"trace id 1 ip a b rule " + b"y" * 90):
        if len(line) < 60 or first == POLICY:
            assert list(unwrapped([first, line])) == [first, line]


def test_no_end():
    """A line that goes on and on is cut: it takes no more memory than others."""
    begun = b"trace id 1 ip a b packet: iif"
    found = list(unwrapped([begun + b" x" * 20, *[b"y" * 70] * 5000]))
    assert max(map(len, found)) < 70_000
    assert len(found) > 1


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("packet: iif &quot;toa&quot; oif &quot;b&quot;", 'packet: iif "toa" oif "b"'),
        ("packet: iif \u201ctoa\u201d oif \u201eb\u201c", 'packet: iif "toa" oif "b"'),
        ("rule meta mark &amp; 0x1 accept", "rule meta mark & 0x1 accept"),
        (
            'rule accept comment "a &quot; \u201cb\u201d"',
            'rule accept comment "a &quot; \u201cb\u201d"',
        ),
    ],
)
def test_quotes_of_pages(line, plain):
    """They are quotes where the line has no plain ones: then a comment may have them itself."""
    assert straightened(line) == plain
