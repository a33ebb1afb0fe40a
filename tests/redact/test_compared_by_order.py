"""Addresses that nft compares by order, or prints as numbers: true afterwards, or refused with the rule."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from iptrec.errors import UsageError
from iptrec.redact.compare_rulesets import Rulesets
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.nft_json import NftJson
from iptrec.redact.nft_text import NftText
from iptrec.redact.pairs import Pairs


def redacted(change, content, keeps=()):
    """A listing, what is in its place, and the maps."""
    key = Key(b"any")
    addresses, survey = surveyed(key, keeps)
    change(survey)(content)
    maps = Redaction(key, addresses, keeps, ())
    return change(maps)(content), maps


def nft_json(maps):
    return NftJson(maps, {})


def listing(*expressions):
    rule = {"family": "ip", "table": "t", "chain": "c", "handle": 7, "expr": [*expressions]}
    return json.dumps({"nftables": [{"rule": rule}]}).encode()


def text(rule):
    return f"table ip t {{ # handle 1\n\tchain c {{ # handle 2\n\t\t{rule} # handle 7\n\t}}\n}}\n"


def field(protocol, name):
    return {"payload": {"protocol": protocol, "field": name}}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def raw(base, offset, length):
    return {"payload": {"base": base, "offset": offset, "len": length}}


IP, MAC = field("ip", "saddr"), field("ether", "saddr")
# nft 1.0.6 printed these, as text and as JSON
UNTRUE = {
    "ip saddr > 10.1.2.77": match(IP, "10.1.2.77", ">"),
    "ip saddr < 10.1.2.77": match(IP, "10.1.2.77", "<"),
    "ip daddr >= 8.8.4.4": match(field("ip", "daddr"), "8.8.4.4", ">="),
    "ip saddr <= 10.1.2.77": match(IP, "10.1.2.77", "<="),
    "ip saddr >= 10.1.2.0/24": match(IP, {"prefix": {"addr": "10.1.2.0", "len": 24}}, ">="),
    "ip6 daddr > fd00:1::5": match(field("ip6", "daddr"), "fd00:1::5", ">"),
    "ether saddr > 52:54:00:12:34:56": match(MAC, "52:54:00:12:34:56", ">"),
    "ct original ip saddr > 10.1.2.77": match(
        {"ct": {"key": "ip saddr", "dir": "original"}}, "10.1.2.77", ">"
    ),
    "@nh,96,32 > 0xa01024d": match(raw("nh", 96, 32), 0x0A01024D, ">"),
    "@nh,104,24 > 0x102": match(raw("nh", 104, 24), 0x102, ">"),
    "@nh,104,24 0x10200": match(raw("nh", 104, 24), 0x10200),
    "@nh,104,24 & 0xffff00 == 0x10200": match({"&": [raw("nh", 104, 24), 0xFFFF00]}, 0x10200),
    "@nh,104,24 set 0x10203": {"mangle": {"key": raw("nh", 104, 24), "value": 0x10203}},
    "@nh,104,24 { 0x10203, 0x10204 }": match(raw("nh", 104, 24), {"set": [0x10203, 0x10204]}),
    "@nh,104,24 0x10203-0x10209": match(raw("nh", 104, 24), {"range": [0x10203, 0x10209]}),
    "ip saddr & 0.255.255.255 == 0.1.2.3": match({"&": [IP, "0.255.255.255"]}, "0.1.2.3"),
}


@pytest.mark.parametrize("rule", UNTRUE)
def test_what_cannot_stay_true_is_refused_with_the_rule(rule):
    """As many addresses are above one afterwards: it would be itself, and its network with it."""
    with pytest.raises(UsageError, match="would not stay true") as refused:
        redacted(NftText, text(rule))
    assert rule in str(refused.value)
    with pytest.raises(UsageError, match="would not stay true") as refused:
        redacted(nft_json, listing(UNTRUE[rule]))
    assert '"chain": "c", "handle": 7' in str(refused.value)


KNOWN = {
    "ip saddr >= 224.0.0.0": match(IP, "224.0.0.0", ">="),
    "ip saddr > 126.255.255.255": match(IP, "126.255.255.255", ">"),
    "ip daddr < 192.168.0.0": match(field("ip", "daddr"), "192.168.0.0", "<"),
    "ip saddr <= 172.31.255.255": match(IP, "172.31.255.255", "<="),
    "ip saddr > 127.0.0.1": match(IP, "127.0.0.1", ">"),
    "ip saddr > 0.0.0.0": match(IP, "0.0.0.0", ">"),  # noqa: S104 - an address of a rule
    "ip6 saddr >= fe80::": match(field("ip6", "saddr"), "fe80::", ">="),
    "meta mark > 0x00100000": match({"meta": {"key": "mark"}}, 0x100000, ">"),
    "@nh,64,16 > 0x0101": match(raw("nh", 64, 16), 0x101, ">"),
}


@pytest.mark.parametrize("rule", KNOWN)
def test_a_border_that_tells_nothing_stays(rule):
    """Ends of networks that stay, and what everybody has."""
    assert redacted(NftText, text(rule))[0].count(rule) == 1
    made, _ = redacted(nft_json, listing(KNOWN[rule]))
    assert json.loads(made) == json.loads(listing(KNOWN[rule])) | {
        "nftables": [{"rule": {**json.loads(made)["nftables"][0]["rule"], "expr": [KNOWN[rule]]}}]
    }


BORDERS = [
    (127 << 24, "<="),
    (192 << 24 | 168 << 16, "<"),
    (192 << 24 | 2 << 8, ">="),
    (172 << 24 | 32 << 16, "<"),
    (224 << 24, ">="),
]


@pytest.mark.parametrize(("first", "_op"), BORDERS)
def test_addresses_stay_on_their_side(first, _op):
    """Of each border that is not refused: those near it, and those far from it."""
    key = Key(b"any")
    addresses, survey = surveyed(key, ())
    survey.border(first, 4)
    maps = Redaction(key, addresses, (), ())
    for distance in (1 << at for at in range(31)):
        for one in (first - distance, first + distance - 1):
            if 0 <= one < 1 << 32:
                made = int.from_bytes(maps.address(one.to_bytes(4, "big")), "big")
                assert (one >= first) == (made >= first), one


def test_cards_that_are_kept_may_be_compared():
    """With --keep macs."""
    rule = "ether saddr > 52:54:00:12:34:56"
    assert rule in redacted(NftText, text(rule), ["macs"])[0]


NUMBERS = {
    "ip saddr { 0xa000001, 0xa000002 }": match(IP, {"set": [0x0A000001, 0x0A000002]}),
    "ip saddr . tcp dport { 0xa000001 . 22 }": match(
        {"concat": [IP, field("tcp", "dport")]}, {"set": [{"concat": [0x0A000001, 22]}]}
    ),
    "tcp dport . ip saddr { 167772161 . 167772161 }": match(
        {"concat": [field("tcp", "dport"), IP]}, {"set": [{"concat": [0x0A000001, 0x0A000001]}]}
    ),
    "ip saddr vmap { 167772161 : drop, 167772162 : accept }": {
        "vmap": {
            "key": IP,
            "data": {"set": [[0x0A000001, {"drop": None}], [0x0A000002, {"accept": None}]]},
        }
    },
    "ip saddr { 0xa000001-0xa000009 }": match(IP, {"set": [{"range": [0x0A000001, 0x0A000009]}]}),
    "ip saddr { 0xa000000/24 }": match(
        IP, {"set": [{"prefix": {"addr": 0x0A000000, "len": 24}}]}
    ),
    "ip6 saddr { 0xfd000001000000000000000000000005 }": match(
        field("ip6", "saddr"), {"set": [0xFD000001000000000000000000000005]}
    ),
    "@ll,48,48 { 0x525400123456, 0x525400123457 }": match(
        raw("ll", 48, 48), {"set": [0x525400123456, 0x525400123457]}
    ),
    "ether saddr & ff:ff:ff:00:00:00 == 52:54:00:00:00:00": match(
        {"&": [MAC, "ff:ff:ff:00:00:00"]}, "52:54:00:00:00:00"
    ),
    "@nh,96,32 0xa000001 counter packets 167772161 bytes 5": match(
        raw("nh", 96, 32), 0x0A000001
    ),
}  # fmt: skip
WORDS = ["a000001", "a000002", "a000009", "167772162", "fd0000", "525400", "52:54:00"]


@pytest.mark.parametrize("rule", NUMBERS)
def test_addresses_that_are_numbers_are_mapped(rule):
    """In sets, concatenations, maps, ranges; alike in text and JSON, and --check takes no other ones."""
    made, maps = redacted(NftText, text(rule))
    found, _ = redacted(nft_json, listing(NUMBERS[rule]))
    assert not [one for one in WORDS if one in made]
    stays = rule.startswith("tcp dport") + ("packets" in rule)  # a port, a counter
    assert made.count("167772161") == stays
    for one in (167772161, 167772162, 0x0A000009, 0x525400123456, 0xFD000001 << 96 | 5):
        assert found.decode().count(str(one)) == (one == 167772161 and "dport ." in rule)
    for kind, before, after in (
        ("nft-text", text(rule), made),
        ("nft", listing(NUMBERS[rule]), found),
    ):
        assert differences(maps, kind, before, after) == []
        assert differences(maps, kind, before, before) != []


def differences(maps, kind, before, after):
    def snapshot(content):
        content = content if isinstance(content, bytes) else content.encode()
        media = "json" if kind == "nft" else "text"
        return SimpleNamespace(kind=kind, content=content, media=media, time_ns=1)

    return list(Rulesets(Pairs(maps)).differences([snapshot(before)], [snapshot(after)]))


def test_numbers_of_a_set_whose_places_are_not_told():
    """As nft 1.0.6 lists ``typeof @nh,96,32``; its text has the place."""
    told = {"family": "ip", "name": "a", "table": "t", "type": "integer", "elem": [0x0A000001]}
    with pytest.raises(UsageError, match="a number in a set"):
        redacted(nft_json, json.dumps({"nftables": [{"set": told}]}).encode())
    small = json.dumps({"nftables": [{"set": {**told, "elem": [22]}}]}).encode()
    assert b"[22]" in redacted(nft_json, small)[0]
    lines = """\
table ip t {
\tset a {
\t\ttypeof @nh,96,32
\t\tsize 9
\t\telements = { 0xa000001 counter packets 5 bytes 1000000,
\t\t\t     0xa000002 }
\t}
}
"""
    made, maps = redacted(NftText, lines)
    assert "0xa0000" not in made
    assert "counter packets 5 bytes 1000000," in made
    assert differences(maps, "nft-text", lines, made) == []
    assert differences(maps, "nft-text", lines, made.replace("elements = { 0x", "elements = { 0x1"))
