"""Text of strangers on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.views.escape import printable

VISIBLE = {
    "\x1b[2J": r"\x1b[2J",
    "\x9b1m": r"\x9b1m",
    "a\nb\r\tc": r"a\x0ab\x0d\x09c",
    "\x7f": r"\x7f",
    "\u202e\u2066\u061c": r"\u202e\u2066\u061c",
    "\u2028\u200b\ufeff": r"\u2028\u200b\ufeff",
    "\ud800": r"\ud800",
    "\U000e0041": r"\U000e0041",
    "[bold]red[/bold] Grüße 防火墙": "[bold]red[/bold] Grüße 防火墙",
}


@pytest.mark.parametrize("text", VISIBLE, ids=ascii)
def test_controls_become_visible(text):
    """Controls, bidirectional marks, invisible characters and surrogates; the rest stays as it is."""
    assert printable(text) == VISIBLE[text]


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_nothing_unprintable_is_left(text):
    """Any text becomes one printable, encodable line, and printable text stays the same."""
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert printable(shown) == shown
