"""What the kernel tells of sets, as Linux 6.18 and nft 1.0.6 made it; and the keys of elements."""

from __future__ import annotations

import pytest

from iptrec.decode import nft_elements, nft_keys
from iptrec.decode.nft_changes import DELETE_ELEMENTS, NEW_ELEMENTS, NEW_RULE, NEW_SET
from iptrec.decode.nft_elements import Element, Told
from iptrec.decode.rulesets.nft_matches import Flags, Joined, Prefix, Range

TABLE = ("inet", "t")
GENERATION = (
    "2c0000000f0a0000010000006f0b00000000000208000100000000020800020000000b6f080003006e667400"
)
RULE = (
    "58010000060a000c02000000a70b000001000006060001007400000006000200630000000c000300000000000000000428010400"
    "24000100090001006d6574610000000014000200080002000000001008000100000000012c00010008000100636d700020000200"
    "080001000000000108000200000000000c0003000500010011000000340001000c0001007061796c6f6164002400020008000100"
    "000000010800020000000002080003000000000208000400000000022c00010008000100636d7000200002000800010000000001"
    "08000200000000000c0003000600010000090000340001000c0001007061796c6f61640024000200080001000000000108000200"
    "0000000208000300000000020800040000000002400001000b00010064796e736574000030000200080004000000000108000300"
    "0000000006000100540000000c00060000000000000003e80800090000000000"
)
NEW_PAIRS = (  # add set inet t C { type ipv4_addr . inet_service; flags interval; }
    "9c000000090a0004020000006f0b000001000002060001007400000006000200430000000c00100000000000000000010800"
    "03000000008408000400000001cd080005000000000814000d00000400000000030800040d0000000100200009001c000200"
    "0c00010008000100000000040c00010008000100000000021700130030786666666666666666383235303831613000000800"
    "140000000000"
)
NEW_TIMED = (  # add set inet t T { type inet_service; flags timeout,dynamic; }
    "78000000090a0004030000006f0b000001000002060001007400000006000200540000000c00100000000000000000020800"
    "030000000030080004000000000d08000500000000020a000d00000402000000000004000900170013003078666666666666"
    "6666383235303766343000000800140000000000"
)
ADD_PAIR = (  # add element inet t C { 1.2.3.0/24 . 1000-1004 }
    "4c0000000c0a0004000000007d0b000001000003060001007400000006000200430000002800030024000100100001000c00"
    "01000102030003e8000010000a000c000100010203ff03ec0000"
)
ADD_TIMED = (  # add element inet t T { 7 timeout 150ms }
    "500000000c0a0004000000008a0b000001000004060001007400000006000200540000002c000300280001000c0001000600"
    "0100000700000c00040000000000000000940c0005000000000000000094"
)
DELETE_TIMED = (  # delete element inet t T { 8 }
    "380000000e0a000000000000960b0000010000050600010074000000060002005400000014000300100001000c0001000600"
    "010000080000"
)
PAIR = Element(bytes.fromhex("0102030003e80000"), bytes.fromhex("010203ff03ec0000"))
CASES = {
    NEW_PAIRS: [Told(NEW_SET, TABLE, "C", key_size=8, interval=True)],
    NEW_TIMED: [Told(NEW_SET, TABLE, "T", key_size=2), Told(NEW_RULE, TABLE, "T")],
    ADD_PAIR: [
        Told(
            NEW_ELEMENTS,
            TABLE,
            "C",
            (Element(bytes.fromhex("0102030003e80000"), bytes.fromhex("010203ff03ec0000")),),
        )
    ],
    ADD_TIMED: [Told(NEW_ELEMENTS, TABLE, "T", (Element(b"\0\7", expires_ms=148),))],
    DELETE_TIMED: [Told(DELETE_ELEMENTS, TABLE, "T", (Element(b"\0\10"),))],
}


def told(text, most=100):
    data = bytes.fromhex(text + GENERATION)
    return list(nft_elements.told([(1, data)], most))


@pytest.mark.parametrize("message", CASES)
def test_messages(message):
    """Each command's message, and its generation."""
    assert told(message) == [(2, CASES[message])]


def test_rules_that_change_a_set():
    """Of those the set is told, among the other words that are in the rule."""
    ((_, found),) = told(RULE)
    assert {one.kind for one in found} == {NEW_RULE}
    assert "T" in {one.name for one in found}


@pytest.mark.parametrize(("most", "enough"), [(4, True), (3, False)])
def test_no_more_than_can_be_kept(most, enough):
    """Messages and elements are counted."""
    both = DELETE_TIMED * 2
    if enough:
        assert len(told(both, most)[0][1]) == 2
    else:
        with pytest.raises(nft_elements.TooManyError):
            told(both, most)


LISTED = [
    (Prefix("10.0.0.0", 31), ["ipv4_addr"], ((10 << 24, (10 << 24) + 1),)),
    (Range("::1", "::2"), ["ipv6_addr"], ((1, 2),)),
    (Joined(("udp", 53)), ["inet_proto", "inet_service"], ((17, 17), (53, 53))),
    (6, ["inet_proto"], ((6, 6),)),
    ("eth0", ["ifname"], (("eth0", "eth0"),)),
]
NOT_LISTED = [
    ("*", ["inet_service"]), ("eth*", ["ifname"]), ("eth\\*", ["ifname"]),
    (7, ["ifname"]), ("x", ["ipv4_addr"]),
    (Flags(("syn",)), ["mark"]), (Joined((1,)), ["mark", "mark"]), ("nobody", ["inet_proto"]),
]  # fmt: skip


@pytest.mark.parametrize(("element", "types", "expected"), LISTED)
def test_keys_that_are_listed(element, types, expected):
    """In nft's words, as numbers."""
    assert nft_keys.of_listing(element, types) == expected


@pytest.mark.parametrize(("element", "types"), NOT_LISTED)
def test_keys_that_are_not_understood(element, types):
    """They are refused, not guessed."""
    with pytest.raises((ValueError, LookupError)):
        nft_keys.of_listing(element, types)


def test_keys_of_another_size():
    """The kernel's key has the size of its types, each part at four bytes."""
    pair = ["inet_service", "inet_proto"]
    assert nft_keys.of_kernel(bytes([1, 0, 0, 0, 6, 0, 0, 0]), pair) == (256, 6)
    with pytest.raises(ValueError, match="256"):
        nft_keys.of_kernel(b"256", pair)
