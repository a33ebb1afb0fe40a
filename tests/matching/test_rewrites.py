"""What is known of a packet behind rules that rewrite it."""

from __future__ import annotations

import ipaddress
import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode.packet import header
from iptrec.decode.rulesets import iptables_save, nft_json
from iptrec.matching import after, judge
from iptrec.matching.bits import Bits, Span
from iptrec.matching.facts import Facts
from iptrec.matching.rewrites import ANYTHING, is_written, rewritten
from iptrec.names import AF_INET, AF_INET6

SRC, DST = ipaddress.ip_address("10.0.1.2").packed, ipaddress.ip_address("10.0.1.1").packed
UDP = struct.pack("!HHHH", 9, 53, 9, 7) + b"x"
IPV4 = struct.pack("!BBHHHBBH", 0x45, 0x21, 20 + len(UDP), 7, 0, 64, 17, 5) + SRC + DST + UDP
IPV6 = (
    struct.pack("!IHBB", 6 << 28 | 0x21 << 20 | 5, len(UDP), 17, 64)
    + bytes(15)
    + b"\1"
    + bytes(15)
    + b"\2"
    + UDP
)


def facts(packet, mark=6):
    family = AF_INET6 if packet[0] >> 4 == 6 else AF_INET
    return Facts(
        header(packet, family), mark, "v1", None, None, None, None, ct_state=8, bits=Bits(packet)
    )


def payload(key):
    protocol, _, field = key.partition(" ")
    return {"payload": {"protocol": protocol, "field": field}}


def statement(text):
    """Of the header of a packet, of its mark or its connection: ip dscp set 8, ip dscp == 8."""
    kind, field, op, value = text.split()
    left = {kind: {"key": field}} if kind in ("meta", "ct") else payload(f"{kind} {field}")
    right = int(value) if value.isdigit() else value
    if op == "set":
        return {"mangle": {"key": left, "value": right}}
    if op in ("|", "&"):
        return {"mangle": {"key": left, "value": {op: [left, right]}}}
    return {"match": {"op": op, "left": left, "right": right}}


def native(*texts):
    rule = {
        "family": "inet",
        "table": "t",
        "chain": "c",
        "handle": 1,
        "expr": list(map(statement, texts)),
    }
    listing = {"nftables": [{"rule": rule}]}
    return nft_json.parse(json.dumps(listing).encode(), b"").chains["inet", "t"]["c"].rules[0]


def iptables(spec):
    saved = f"*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {spec}\nCOMMIT\n"
    return iptables_save.parse(saved.encode()).tables["mangle"]["PREROUTING"].rules[0]


# Rule, whether it matched, what is asked then: what is said of that.
NATIVE = [
    (["meta mark set 16"], True, "meta mark == 16", True),
    (["meta mark set 16"], True, "meta mark == 6", False),
    (["meta mark | 16"], True, "meta mark == 22", True),
    (["meta mark & 2"], True, "meta mark == 2", True),
    (["ip dscp set cs1"], True, "ip dscp == cs1", True),
    (["ip dscp set cs1"], True, "ip dscp == cs2", False),
    (["ip dscp set cs1"], True, "ip ecn == ect1", True),
    (["ip ecn set ce"], True, "ip dscp == cs1", True),
    (["ip dscp | 1"], True, "ip dscp == 9", True),
    (["ip ttl set 9"], True, "ip ttl < 10", True),
    (["ip ttl set 9"], True, "ip checksum == 5", None),
    (["ip ttl set 9"], True, "udp checksum == 7", True),
    (["ip saddr set 10.0.9.9"], True, "ip saddr == 10.0.9.9", True),
    (["ip saddr set 10.0.9.9"], True, "udp checksum == 7", None),
    (["udp dport set 80"], True, "udp dport == 80", True),
    (["udp dport set 80"], True, "th dport == 80", True),
    (["udp dport set 80"], True, "udp checksum == 7", None),
    (["udp dport set 80"], True, "udp sport == 9", True),
    (["ip protocol set 6"], True, "ip protocol == 17", None),
    (["ip length set 30"], True, "meta length == 29", True),
    (["ip ttl set 9"], False, "ip ttl == 64", True),
    # It sets, and then does not match.
    (["ip ttl set 9", "udp dport == 80"], False, "ip ttl == 9", True),
    (["udp dport == 53", "ip ttl set 9", "udp dport == 80"], False, "ip ttl == 9", True),
    (["udp dport == 80", "ip ttl set 9", "udp dport == 53"], False, "ip ttl == 64", True),
    (["ct mark == 1", "ip ttl set 9", "udp dport == 80"], False, "ip ttl == 9", None),
    (["ct mark == 1", "ip ttl set 64", "udp dport == 80"], False, "ip ttl == 64", True),
    (["ct mark == 1", "meta mark set 7", "udp dport == 80"], False, "meta mark == 7", None),
    (["ct mark set 1"], True, "ip ttl == 64", True),
    (["ct mark set 1"], True, "ct mark == 1", True),
    (["ct mark set 1"], True, "ct mark == 2", False),
    (["ct mark set 6", "ct mark | 1"], True, "ct mark == 7", True),
    (["ct mark | 1"], True, "ct mark == 1", None),
    (["ct mark == 1", "ct mark set 6", "udp dport == 80"], False, "ct mark == 6", None),
]


@pytest.mark.parametrize(("texts", "matched", "asked", "said"), NATIVE)
def test_rules_of_nft(texts, matched, asked, said):
    """One statement after the other, as far as the rule matched."""
    found = after(native(*texts), facts(IPV4), matched=matched)
    assert judge(native(asked), found).fits is said


@pytest.mark.parametrize(
    ("text", "asked", "said"),
    [
        ("ip6 dscp set cs1", "ip6 dscp == cs1", True),
        ("ip6 hoplimit set 9", "ip6 hoplimit == 9", True),
        ("ip6 flowlabel set 9", "ip6 flowlabel == 9", True),
        ("ip6 flowlabel set 9", "ip6 ecn == ect1", True),
        ("ip6 saddr set ::9", "ip6 saddr == ::9", True),
        ("ip6 saddr set ::9", "ip6 daddr == ::2", True),
        ("ip6 nexthdr set 6", "ip6 nexthdr == 17", None),
    ],
)
def test_rules_of_nft_about_ipv6(text, asked, said):
    """Likewise."""
    found = after(native(text), facts(IPV6), matched=True)
    assert judge(native(asked), found).fits is said


IPTABLES = [
    ("-j TTL --ttl-set 9", "-m ttl --ttl-eq 9", True),
    ("-j TTL --ttl-inc 1", "-m ttl --ttl-eq 65", True),
    ("-j TTL --ttl-dec 1", "-m ttl --ttl-eq 63", True),
    ("-j TTL --ttl-inc 250", "-m ttl --ttl-eq 255", True),
    ("-j TOS --set-tos 0x10/0xff", "-m tos --tos 0x10/0xff", True),
    ("-j TOS --set-tos 0x10/0x3f", "-m tos --tos 0x10/0xff", True),
    ("-j TOS --set-tos 0x40/0xc0", "-m tos --tos 0x61/0xff", True),
    ("-j DSCP --set-dscp 0x10", "-m dscp --dscp 0x10", True),
    ("-j DSCP --set-dscp 0x10", "-m ecn --ecn-ip-ect 1", True),
    ("-j MARK --set-xmark 0x10/0xffffffff", "-m mark --mark 0x10", True),
    ("-j MARK --set-xmark 0x10/0xff", "-m mark --mark 0x10", True),
    ("-j MARK --set-xmark 0x10/0x0", "-m mark --mark 0x16", True),
    ("-j CONNMARK --restore-mark", "-m mark --mark 0x6", None),
    ("-j TTL --ttl-set 9", "-m dscp --dscp 0x08", True),
    ("-j NOTRACK", "-m conntrack --ctstate NEW", None),
    ("-j CT --helper ftp", "-m conntrack ! --ctproto 17", None),
    ("-j TCPMSS --set-mss 9", "-m length --length 29", None),
]


@pytest.mark.parametrize(("rule", "asked", "said"), IPTABLES)
def test_targets_of_iptables(rule, asked, said):
    """What iptables-save prints of targets."""
    found = after(iptables(rule), facts(IPV4), matched=True)
    assert judge(iptables(asked), found).fits is said
    assert after(iptables(rule), facts(IPV4), matched=False) == facts(IPV4)


def test_what_was_not_known_is_known_once_it_is_set():
    """A field that may have been another, of whatever value, is then what it is set to."""
    unknown = replace(facts(IPV4), mark=None, written=frozenset(["ip dscp", "ip ttl"]))
    assert judge(native("ip dscp == cs1"), unknown).fits is None
    found = after(iptables("-j TOS --set-tos 0x40/0xff"), unknown, matched=True)
    assert judge(native("ip dscp == cs2"), found).fits is True
    assert judge(native("ip ttl == 64"), found).fits is None
    found = after(iptables("-j TOS --set-tos 0x40/0xc0"), unknown, matched=True)
    assert judge(native("ip dscp == cs2"), found).fits is None
    found = after(iptables("-j MARK --set-xmark 0x1/0xffffffff"), unknown, matched=True)
    assert found.mark == 1
    assert after(iptables("-j MARK --set-xmark 0x1/0xff"), unknown, matched=True).mark is None
    assert is_written("udp dport", rewritten(unknown, ANYTHING, None).written)


@given(st.binary(min_size=60, max_size=60), st.integers(0, 159), st.integers(1, 64), st.integers(0))
def test_bits_are_replaced(data, start, size, value):
    """Those, and no others."""
    bits = Bits(b"\x45" + data[1:])
    span = Span("th", start, size)
    value %= 1 << size
    found = bits.replaced(span, value)
    assert found.number(span) == value
    assert found.replaced(span, bits.number(span)) == bits
