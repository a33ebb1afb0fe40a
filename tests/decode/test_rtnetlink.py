"""Interfaces out of rtnetlink's datagrams."""

from __future__ import annotations

import pytest
from handmade import link_message as message
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode.rtnetlink import LinkChange, link_changes

CASES = {
    "two_in_one": (
        message(16, 1, (3, b"a\0")) + message(17, 2, (4, b"1234"), (3, b"b\0")),
        [LinkChange(1, "a", gone=False), LinkChange(2, "b", gone=True)],
    ),
    "no_utf8": (message(16, 1, (3, b"\xff\0")), [LinkChange(1, "\\xff", gone=False)]),
    "other_kind": (message(20, 1, (3, b"a\0")), []),
    "no_name": (message(16, 1, (4, b"1234")), []),
    "no_index": (message(16, 0, (3, b"a\0")), []),
    "lying_size": (message(16, 1, (3, b"a\0"), claim=4), []),
    "empty": (b"", []),
}


@pytest.mark.parametrize("case", CASES)
def test_link_changes(case):
    """Index and name of each link message; what does not fit is left out."""
    datagram, expected = CASES[case]
    assert list(link_changes(datagram)) == expected


@given(data=st.binary(max_size=200), cut=st.integers(0, 60))
def test_any_bytes_are_read(data, cut):
    """Nothing raises, nothing loops."""
    list(link_changes(data))
    list(link_changes(message(16, 1, (3, b"a\0"))[:cut] + data))
