"""Conditions of the kernel's rules that nft does not print, out of messages."""

from __future__ import annotations

import json

import pytest
from handmade import attribute
from hypothesis import given
from hypothesis import strategies as st
from nft_handmade import NEW_RULE, message, text, u32, u64

from iptrec.decode.rulesets import nft_unprinted
from iptrec.decode.rulesets.nft_matches import Match


def expression(name, *values):
    """One expression of a rule."""
    data = b"".join(attribute(*one) for one in values)
    return attribute(1, attribute(1, text(name)) + attribute(2, data))


def meta(key, register=1, kind="meta"):
    return expression(kind, (1, u32(register)), (2, u32(key)))


def compared(value, op=0, register=1):
    return expression("cmp", (1, u32(register)), (2, u32(op)), (3, attribute(1, value)))


def told(*expressions):
    """A snapshot with one rule."""
    rule = message(NEW_RULE, (1, text("fw")), (3, u64(7)), (4, b"".join(expressions)))
    return json.dumps({"messages": rule.hex()}).encode()


@pytest.mark.parametrize(
    ("expressions", "expected"),
    [
        ((meta(1), compared(b"\x08\x00")), Match("meta protocol", "==", "ip")),
        ((meta(1), compared(b"\x86\xdd", 1)), Match("meta protocol", "!=", "ip6")),
        ((meta(8), compared(b"\x01\x00")), Match("meta iiftype", "==", "ether")),
        ((meta(15), compared(b"\x0a")), Match("meta nfproto", "==", "ipv6")),
        ((meta(16), compared(b"\x3a")), Match("meta l4proto", "==", "ipv6-icmp")),
        ((meta(16), compared(b"\xfd")), Match("meta l4proto", "==", 253)),
        ((meta(7, kind="ct"), compared(b"\x02")), Match("ct l3proto", "==", "ipv4")),
        ((meta(15, kind="ct"), compared(b"\x02")), None),
        ((meta(7), compared(b"\x02")), None),
        ((meta(16), compared(b"\x06", op=3)), None),  # less than
        ((meta(16, 1), compared(b"\x06", register=2)), None),
        ((meta(16), expression("bitwise", (1, u32(1))), compared(b"\x06")), None),
        ((meta(3), compared(b"\x06\0\0\0")), None),  # the mark: nft prints it
        ((meta(16), compared(b"")), None),
        ((meta(16),), None),
    ],
)
def test_what_is_compared_at_once_is_a_condition(expressions, expected):
    """Of what is computed in between nobody knows what it makes of the value."""
    found = nft_unprinted.read(told(*expressions))
    assert found == ({("inet", "fw", 7): (expected,)} if expected else {})


@given(st.binary(max_size=200))
def test_what_a_stranger_wrote_is_no_crash(content):
    nft_unprinted.read(content)
    nft_unprinted.read(json.dumps({"messages": content.hex()}).encode())
    nft_unprinted.read(told(content))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"messages": 1}', b'{"messages": "zz"}', b"[" * 100_000]
)
def test_what_cannot_be_read_tells_nothing(content):
    assert nft_unprinted.read(content) == {}
