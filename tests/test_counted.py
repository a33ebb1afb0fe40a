"""1 packet, 2 packets: wherever something is counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from iptrec.names import counted

ROOT = Path(__file__).parents[1]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.txt"))


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "packet", "0 packets"),
        (1, "packet", "1 packet"),
        (2, "ipv4 rule", "2 ipv4 rules"),
        (1000, "byte", "1,000 bytes"),
    ],
)
def test_counted(number, noun, expected):
    assert counted(number, noun) == expected


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_nothing_is_1_packets(path):
    """In no view of a sample."""
    assert re.findall(r"\b1 (?:packets|events|bytes|traces|rules)\b", path.read_text()) == []
