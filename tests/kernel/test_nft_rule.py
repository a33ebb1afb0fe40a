"""Bytes of nf_tables' rules: written down and read, compared, and completed for extensions of iptables."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.kernel.netlink import attributes, packed
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft.rule import Rule

IPV4, IPV6 = 2, 10


def u32(number):
    return struct.pack("!I", number)


def expression(name, *values):
    return packed([(1, name.encode() + b"\0"), (2, packed(values))])


def rule(*expressions, userdata=b""):
    return Rule("OUTPUT", b"\0" * 8, packed((1, one) for one in expressions), userdata)


def counter(number):
    return expression("counter", (1, struct.pack("!Q", number)), (2, struct.pack("!Q", 1)))


def meta(key=16, register=1):
    return expression("meta", (2, u32(key)), (1, u32(register)))


def payload(offset, base=1, length=1):
    numbers = zip((1, 2, 3, 4), (1, base, offset, length), strict=True)
    return expression("payload", *((kind, u32(number)) for kind, number in numbers))


def cmp(value, operation=0, register=1):
    return expression("cmp", (1, u32(register)), (2, u32(operation)), (3, packed([(1, value)])))


MATCH = expression("match", (1, b"tcp\0"), (2, u32(0)), (3, bytes(16)))


@given(st.binary(), st.binary(), st.text(st.characters(codec="utf-8")))
def test_a_rule_that_is_written_down_is_the_same(expressions, userdata, text):
    """Whatever its bytes are."""
    one = Rule("OUTPUT", b"", expressions, userdata, text)
    assert Rule.read(one.line) == one


@pytest.mark.parametrize(
    "line",
    ["", "[3:300] -A OUTPUT -d 192.0.2.9/32 -j DROP", "OUTPUT a!== = x", "OUTPUT DAABAAgAAgA=  x"],
)
def test_what_is_no_rule_is_not_understood(line):
    """A list of changes with such a line is not believed."""
    assert not nft_rule.understood(line)


def test_what_a_rule_counted_does_not_make_it_another():
    """A counter, what a quota has used, when it was used last; but nothing else."""
    quota = [
        expression("quota", (1, struct.pack("!Q", 9)), (2, u32(0)), (4, struct.pack("!Q", used)))
        for used in (0, 5)
    ]
    last = [expression("last", (1, u32(seen)), (2, struct.pack("!Q", seen))) for seen in (0, 1)]
    one, other = (rule(counter(at), quota[at], last[at]) for at in (0, 1))
    assert one.identity == other.identity
    limit, padded = (expression("limit", *pad, (1, bytes(8))) for pad in ((), ((6, b""),)))
    assert rule(limit).identity == rule(padded).identity
    larger = expression("quota", (1, struct.pack("!Q", 8)), (2, u32(0)))
    for different in (
        rule(counter(0), larger, last[0]),
        rule(counter(0), quota[0]),
        rule(quota[0], counter(0), last[0]),
        rule(counter(0), quota[0], last[0], userdata=b"comment"),
    ):
        assert different.identity != one.identity


@pytest.mark.parametrize(
    ("name", "kind"),
    [("__set0", "set"), ("__map12", "map"), ("blocked", None), ("__set", None), ("__set0x", None)],
)
def test_what_has_no_name_is_seen(name, kind):
    """It goes with the rule."""
    lookup = expression("lookup", (1, name.encode() + b"\0"), (2, u32(1)))
    assert rule(counter(0), lookup).anonymous == kind


PROTOCOLS = {
    "meta": (IPV4, [meta(), cmp(b"\6")], (6, 0)),
    "inverted": (IPV4, [meta(), cmp(b"\x11", 1)], (17, 2)),
    "ipv4 header": (IPV4, [payload(9), cmp(b"\6")], (6, 0)),
    "ipv6 header": (IPV6, [payload(6), cmp(b"\x3a")], (58, 0)),
    "behind others": (IPV4, [payload(12, length=4), cmp(bytes(4)), meta(), cmp(b"\6")], (6, 0)),
    "another key": (IPV4, [meta(15), cmp(b"\2")], None),
    "another offset": (IPV4, [payload(8), cmp(b"\6")], None),
    "another header": (IPV4, [payload(9, base=2), cmp(b"\6")], None),
    "another register": (IPV4, [meta(register=2), cmp(b"\6")], None),
    "loaded with something else": (IPV4, [meta(), meta(15), cmp(b"\2")], None),
    "less than": (IPV4, [meta(), cmp(b"\6", 2)], None),
    "none": (IPV4, [], None),
}


@pytest.mark.parametrize("case", PROTOCOLS)
def test_the_protocol_by_which_an_extension_is_checked(case):
    """It is found where iptables-nft matches it, and given to the kernel as it was by iptables-nft."""
    family, expressions, expected = PROTOCOLS[case]
    found = dict(rule(*expressions, MATCH).new(family)).get(nft_rule.COMPAT)
    compat = found and tuple(int.from_bytes(value) for _, value in attributes(found))
    assert compat == expected


@pytest.mark.parametrize(("name", "kind"), [("dynset", 6), ("exthdr", 5), ("osf", 3)])
def test_zeros_that_the_kernel_refuses_are_left_out(name, kind):
    """It gives them all the same. What is not 0, and what others say, stays; so do all other bytes."""
    zero, one = ((kind, bytes(7) + bytes([value])) for value in (0, 1))
    around = counter(0), meta()
    for there, taken in (((zero,), ()), ((one,), (one,)), ((), ())):
        whole = rule(around[0], expression(name, (1, u32(0)), *there), around[1])
        expected = rule(around[0], expression(name, (1, u32(0)), *taken), around[1])
        assert dict(whole.new(IPV4))[nft_rule.EXPRESSIONS] == expected.expressions
    other = rule(expression("other", zero))
    assert dict(other.new(IPV4))[nft_rule.EXPRESSIONS] == other.expressions


def test_without_extensions_no_protocol_is_given():
    """The kernel has no use for it."""
    assert nft_rule.COMPAT not in dict(rule(meta(), cmp(b"\6")).new(IPV4))
