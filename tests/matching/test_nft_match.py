"""Conditions of native rules of nf_tables: by nft's JSON, by its text alone, and by what a stranger wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import packet
from iptrec.decode.rulesets import nft_json, nft_matches
from iptrec.decode.rulesets.nft_matches import Match
from iptrec.decode.rulesets.nft_sets import Member, NftSet
from iptrec.decode.rulesets.types import Rule
from iptrec.matching import after, judge, nft_payload
from iptrec.matching.bits import Bits
from iptrec.matching.facts import Facts
from iptrec.matching.nft_words import words
from iptrec.names import PROTOCOL_NUMBERS

DATA = Path(__file__).parents[1] / "data" / "nft"
UDP = {"src": "10.0.1.2", "dst": "10.0.1.1", "proto": "udp", "length": 29, "sport": 9, "dport": 53}
FACTS = Facts(UDP, 6, "eth0", None, None, None, None, ct_state=8)


def payload(protocol, field):
    return {"payload": {"protocol": protocol, "field": field}}


def meta(key):
    return {"meta": {"key": key}}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def native(*statements, text=""):
    """A rule as nft prints it."""
    rule = {"family": "inet", "table": "t", "chain": "c", "handle": 1, "expr": list(statements)}
    printed = f"table inet t {{\n\tchain c {{\n\t\t{text} # handle 1\n\t}}\n}}\n" if text else ""
    listing = json.dumps({"nftables": [{"rule": rule}]})
    (found,) = nft_json.parse(listing.encode(), printed.encode()).chains["inet", "t"]["c"].rules
    return found


DPORT = payload("udp", "dport")
CASES = [
    (match(DPORT, 53), True, None),
    (match(DPORT, 53, "!="), False, "udp dport != 53 (it is 53)"),
    (match(DPORT, {"set": [1, {"range": [54, 60]}]}), False, "udp dport { 1, 54-60 } (it is 53)"),
    (match(payload("tcp", "dport"), 53), False, "tcp dport 53 (it is udp)"),
    (match(DPORT, {"range": [40, 60]}, "!="), False, "udp dport != 40-60 (it is 53)"),
    (match(DPORT, {"range": [54, 60]}, "!="), True, None),
    # udp dport != 54-54 or udp dport < 54 udp dport > 54
    (match(DPORT, {"range": [54, 54]}, "!="), None, "udp dport != 54-54"),
    (match(DPORT, {"range": [53, 53]}, "!="), False, "udp dport != 53-53 (it is 53)"),
    # So nft 1.0.6 prints udp dport < 60 udp dport > 40
    (match(DPORT, {"range": [60, 40]}, "!="), True, None),
    (match(DPORT, {"range": [53, 40]}, "!="), False, "udp dport != 53-40 (it is 53)"),
    (match(DPORT, {"range": [9, 9]}, "!="), None, "udp dport != 9-9"),
    (match(payload("tcp", "dport"), 53, "!="), False, "tcp dport != 53 (it is udp)"),
    (match(payload("ip6", "saddr"), "::1", "!="), False, "ip6 saddr != ::1 (it is 10.0.1.2)"),
    (match(meta("oifname"), "v*"), False, 'oifname "v*" (it is none)'),
    (match(meta("iifname"), "eth\\*"), False, 'iifname "eth\\*" (it is eth0)'),
    (match({"&": [meta("mark"), 5]}, 5), False, "meta mark & 0x00000005 == 0x00000005 (it is 0x6)"),
    (match({"ct": {"key": "state"}}, ["established", "related"], "in"), False,
     "ct state established,related (it is new)"),
    (match({"ct": {"key": "mark", "dir": "reply"}}, 1), None, "ct reply mark"),
    (match(DPORT, {"prefix": {"addr": 0, "len": 8}}), True, None),
    (match(DPORT, {"prefix": {"addr": 256, "len": 8}}), False, "udp dport 256/8 (it is 53)"),
    (match(DPORT, {"prefix": {"addr": 256, "len": 99}}), None, "udp dport 256/99"),
    (match(payload("ip", "saddr"), "@good"), None, "ip saddr @good"),
    (match(payload("tcp", "x"), 1), None, "tcp x"),
    ({"limit": {"rate": 1, "per": "hour"}}, None, "limit rate 1/hour"),
    ({"counter": None}, True, None),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "fits", "because"), CASES)
def test_judgements(statement, fits, because):
    """Yes, no and why not; or the condition that it depends on, where that is not known."""
    rule = native(statement, {"accept": None}, text='words accept comment "no # words"')
    found = judge(rule, FACTS)
    assert (found.fits, found.because) == (fits, because)


OF_MAP = {"map": {"key": DPORT, "data": "@servers"}}
LONG = "unheard {\n\t\t\t" + "tcp dport 3 accept\n" * 9 + "\t\t}"
UNREAD = [  # as nft 1.0.6 prints them
    ({"limit": {"rate": 5, "burst": 5, "per": "second"}}, "limit rate 5/second"),
    ({"limit": {"rate": 10, "burst": 2, "per": "second", "inv": True, "rate_unit": "kbytes",
                "burst_unit": "kbytes"}}, "limit rate over 10 kbytes/second"),
    ({"limit": "l"}, 'limit name "l"'),
    ({"limit": {"map": {}}}, "limit"),
    ({"quota": {"val": 3, "val_unit": "mbytes", "inv": True}}, "quota over 3 mbytes"),
    ({"quota": {"val": 3, "val_unit": "mbytes"}}, "quota until 3 mbytes"),
    ({"quota": "q"}, 'quota name "q"'),
    ({"set": {"op": "update", "elem": DPORT, "set": "@s"}}, "update @s"),
    ({"map": {"op": "add", "elem": DPORT, "data": 1, "map": "@m"}}, "add @m"),
    ({"ct count": {"val": 2, "inv": True}}, "ct count over 2"),
    ({"ct count": {"val": 2}}, "ct count 2"),
    ({"reject": {"type": "tcp reset"}}, "reject with tcp reset"),
    ({"reject": {"type": "icmp", "expr": "host-unreachable"}}, "reject with icmp host-unreachable"),
    ({"xt": {"type": "match", "name": "string"}}, 'xt match "string"'),
    ({"dnat": {"family": "ip", "addr": "10.0.0.1"}}, "dnat"),
    ({"ct helper": "h"}, "ct helper"),
    ({"queue": {"num": {"map": {}}}}, "queue"),
    (match({"numgen": {"mode": "inc", "mod": 2}}, 0), "numgen"),
    ({"mangle": {"key": meta("mark"), "value": {"numgen": {}}}}, "meta mark set"),
    ({"vmap": {"key": {"numgen": {}}, "data": {"set": []}}}, "vmap"),
    ("last used 3s", "last used 3s"),
    (LONG, f"{' '.join(LONG.split())[:57]}..."),
    (7, "a statement that is not understood"),
    ({"\ud800": None}, "\\ud800"),
]  # fmt: skip


@pytest.mark.parametrize("how", ["jump", "goto"])
def test_an_anonymous_chain_is_no_condition(how):
    """Every packet that fits the rest goes there, as nft 1.0.6 prints it."""
    rule = native(match(DPORT, 53), f"{how} {{\n\t\t\ttcp dport 3 accept\n\t\t}}", text="")
    assert judge(rule, FACTS).fits is True


@pytest.mark.parametrize(("statement", "because"), UNREAD)
def test_what_only_the_kernel_knows_is_named(statement, because):
    """Not by the whole rule."""
    rule = native(match(DPORT, 53), statement, text="udp dport 53 and more")
    found = judge(rule, FACTS)
    assert (found.fits, found.because) == (None, because)


@pytest.mark.parametrize(
    ("key", "fits", "because"),
    [
        (53, None, "dnat"),
        (54, False, "udp dport map (it is 53)"),
    ],
)
def test_an_address_out_of_a_map(key, fits, because):
    """What the map does not have goes by."""
    taken = {"map": {"key": DPORT, "data": {"set": [[key, "10.0.0.1"]]}}}
    found = judge(native({"dnat": {"family": "ip", "addr": taken}}), FACTS)
    assert (found.fits, found.because) == (fits, because)
    found = judge(native({"dnat": {"family": "ip", "addr": OF_MAP}}), FACTS)
    assert (found.fits, found.because) == (None, "udp dport map @servers")


SPORT, TTL = payload("udp", "sport"), payload("ip", "ttl")
NOT_SPORT, NOT_DPORT = match(SPORT, 9, "!="), match(DPORT, 1, "!=")
MARK_8 = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 8}}
DPORT_1 = {"mangle": {"key": DPORT, "value": 1}}
RULES = [
    # nft 1.0.6 merges neighbours: matches unless both are equal
    ((NOT_SPORT, NOT_DPORT), None),
    ((NOT_SPORT, match(DPORT, 53, "!=")), False),
    ((NOT_SPORT, match(TTL, 1, "!=")), False),
    ((NOT_SPORT, match(DPORT, 53)), False),
    # what was written before
    ((MARK_8, match(meta("mark"), 8)), True),
    ((MARK_8, match(meta("mark"), 6)), False),
    ((match(meta("mark"), 8), MARK_8), False),
    ((DPORT_1, match(DPORT, 1)), None),
    ((DPORT_1, match(SPORT, 1)), False),
    ((DPORT_1, match(payload("tcp", "dport"), 1)), False),
    ((DPORT_1, match({"payload": {"base": "th", "offset": 16, "len": 16}}, 1)), None),
    (({"mangle": {"key": payload("tcp", "dport"), "value": 1}}, match(SPORT, 9)), False),
    (({"notrack": None}, match({"ct": {"key": "state"}}, "established", "in")), None),
    ((match({"ct": {"key": "state"}}, "established", "in"), {"notrack": None}), False),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "fits"), RULES)
def test_conditions_together(statements, fits):
    """Of neighbours, and of what the rule itself has changed before."""
    assert judge(native(*statements), FACTS).fits is fits


def raw(base, offset, length):
    return {"payload": {"base": base, "offset": offset, "len": length}}


IPV4 = bytes.fromhex("4520001d00070000401100000a0001020a000101") + bytes.fromhex("0009003500091234")
BITS = [
    (payload("ip", "dscp"), "cs1", True),
    (payload("ip", "dscp"), {"set": ["cs2", 3]}, False),
    (payload("ip", "hdrlength"), 5, True),
    (payload("udp", "length"), {"range": [9, 20]}, True),
    (payload("udp", "checksum"), 0x1234, True),
    (payload("tcp", "window"), 1, False),
    (payload("ip6", "flowlabel"), 1, False),
    (raw("th", 16, 16), 53, True),
    (raw("nh", 64, 8), 64, True),
    (raw("th", 160, 16), 0, None),
    (raw("ll", 96, 16), 0x800, True),
    (raw("ll", 48, 64), 0x0200000000010800, True),
    (raw("nh", 0, 64), 0x4520001D00070000 - (1 << 64), True),
    (payload("ether", "type"), "ip", True),
    (payload("ether", "daddr"), "02:00:00:00:00:09", False),
    ({"&": [payload("ip", "dscp"), 4]}, 0, True),
    ({"ip option": {"name": "rr"}}, False, True),
    ({"exthdr": {"name": "frag"}}, True, False),
    ({"tcp option": {"name": "maxseg"}}, True, False),
    ({"tcp option": {"name": "maxseg"}}, False, None),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "fits"), BITS)
def test_bits_of_the_packet(left, right, fits):
    """What was captured is known, what was not is neither yes nor no."""
    link = bytes.fromhex("0200000000020200000000010800")
    facts = replace(FACTS, bits=Bits(IPV4, link))
    assert judge(native(match(left, right)), facts).fits is fits


HEAD = bytes.fromhex("45000000000000004000000000000000") + bytes(4)
GRE = bytes.fromhex("b0000800") + bytes(4) + b"key!" + b"seq!" + b"\x45"
INNER = [
    ("udp", bytes(8) + b"Ab", 0, 0x41, True),
    ("udp", bytes(8) + b"Ab", 8, 0x41, False),
    ("udp", bytes(8) + b"Ab", 16, 0, False),
    ("tcp", bytes(12) + b"\x60\0" + bytes(10) + b"A", 0, 0x41, True),
    ("tcp", bytes(12) + b"\x60\0" + bytes(10), 0, 0x41, False),
    ("tcp", bytes(12) + b"\xf0\0" + bytes(10) + b"A", 0, 0x41, False),
    ("gre", GRE, 0, 0x45, True),
    ("gre", b"\0\1" + GRE[2:], 0, 0x45, False),
    ("gre", b"\x40\0" + GRE[2:], 0, 0x45, False),
    ("ipip", b"\x45" + bytes(19), 0, 0x45, True),
    ("icmp", bytes(9), 0, 0, False),
]


@pytest.mark.parametrize(("protocol", "body", "at", "value", "fits"), INNER)
def test_inner_headers(protocol, body, at, value, fits):
    """Behind the header of the transport layer; where the packet has none the rule does not match."""
    data = HEAD[:9] + bytes([PROTOCOL_NUMBERS[protocol]]) + HEAD[10:] + body
    told = {**UDP, "proto": protocol, "length": len(data)}
    facts = replace(FACTS, header=told, bits=Bits(data), hook=0)
    condition = native(match(raw("ih", at, 8), value))
    assert judge(condition, facts).fits is fits
    # What was not captured is not known, where a frame ends is not, and what rules may have changed.
    cut = replace(facts, bits=Bits(data[:21]))
    assert judge(condition, cut).fits in (None, fits)
    assert judge(condition, replace(facts, frames=True)).fits in (None, fits)
    assert judge(condition, replace(facts, written=frozenset({"udp sport"}))).fits is None
    assert judge(condition, replace(facts, header=told | {"frag": 8})).fits is None


@pytest.mark.parametrize(
    ("protocol", "words", "fits"), [(6, 5, True), (6, 7, None), (17, 5, False)]
)
def test_an_option_of_tcp_that_is_set(protocol, words, fits):
    """A segment without options passes unchanged, one with such as were not dumped may be cut short."""
    body = bytes.fromhex("0009005000000001" + "00" * 4 + f"{words}002ffff00000000") + bytes(8)
    data = ipv6(protocol, body, len(body))
    facts = replace(FACTS, header=packet.header(data, 10), bits=Bits(data, joined=True))
    size = {"tcp option": {"name": "maxseg", "field": "size"}}
    rule = native({"mangle": {"key": size, "value": 1400}})
    assert judge(rule, facts).fits is fits


@pytest.mark.parametrize("key", [{"field": "size"}, {}])
def test_options_of_tcp_that_were_not_dumped(key):
    """It is said how much was; of a packet that ends there, and of another protocol, nothing."""
    data = ipv6(6, bytes.fromhex("0009005000000001000000007002ffff00000000"), 28)
    facts = replace(FACTS, header=packet.header(data, 10), bits=Bits(data, joined=True))
    asked = native(match({"tcp option": {"name": "maxseg", **key}}, 1460 if key else True))
    found = judge(asked, facts)
    words = "the kernel dumped no more than 20 bytes of the TCP header"
    assert found.fits is None
    assert found.because.startswith("tcp option maxseg ")
    assert found.because.endswith(f" ({words})")
    ended = ipv6(6, data[40:], 20)
    told = replace(facts, header=packet.header(ended, 10), bits=Bits(ended, joined=True))
    assert words not in (judge(asked, told).because or "")
    assert words not in (judge(asked, FACTS).because or "")


def ipv6(following, body, length=None):
    """A header of IPv6 and what is behind it; ``length``: what it says of that."""
    said = len(body) if length is None else length
    return (
        bytes([0x60, 0, 0, 0]) + said.to_bytes(2, "big") + bytes([following, 64]) + bytes(32) + body
    )


@pytest.mark.parametrize("protocol", [one for one in nft_payload.HEADERS if one != "th"])
def test_a_packet_of_a_protocol_has_its_header(protocol):
    """Whatever nft calls it: there is a number of a protocol by which a packet is known to have it."""
    header = nft_payload.HEADERS[protocol]
    if header.base == "th":
        assert {PROTOCOL_NUMBERS[one] for one in header.protocols & PROTOCOL_NUMBERS.keys()}


@pytest.mark.parametrize(("version", "family"), [(4, 2), (6, 10)])
def test_compressed_payload(version, family):
    """IPComp, which nft calls comp."""
    body = bytes.fromhex("11000002") + b"abcdefgh"
    data = IPV4[:9] + b"\x6c" + IPV4[10:20] + body if version == 4 else ipv6(108, body)
    facts = replace(FACTS, header=packet.header(data, family), bits=Bits(data, joined=True))
    assert judge(native(match(payload("comp", "cpi"), 2)), facts).fits is True
    assert judge(native(match(payload("comp", "nexthdr"), "udp")), facts).fits is True
    found = judge(native(match(payload("comp", "cpi"), 3)), facts)
    assert (found.fits, found.because) == (False, "comp cpi 3 (it is 2)")


EXTENSIONS = [  # the first next header, how many bytes are said to be behind IPv6's own; if they are one
    ("frag", 44, 8, True),
    ("frag", 44, 4, True),
    ("frag", 44, 3, False),
    ("frag", 44, 0, False),
    ("rt", 43, 4, True),
    ("rt", 43, 3, False),
    ("dst", 60, 2, True),
    ("dst", 60, 1, False),
    ("hbh", 0, 8, True),
    ("hbh", 0, 0, None),  # the header tells no length of a jumbogram
    ("mh", 135, 0, True),  # ipv6_find_hdr does not look into what is no extension header to it
    ("frag", 17, 8, False),
    ("frag", 60, 8, None),
]


@pytest.mark.parametrize(("name", "first", "length", "there"), EXTENSIONS)
def test_an_extension_header_that_is_cut_short_is_missing(name, first, length, there):
    """As the kernel finds it: by its first bytes (ipv6_find_hdr of net/ipv6/exthdrs_core.c)."""
    data = ipv6(first, b"", length)
    facts = replace(FACTS, header=packet.header(data, 10), bits=Bits(data, joined=True))
    for wanted in (True, False):
        found = judge(native(match({"exthdr": {"name": name}}, wanted)), facts)
        assert found.fits is (None if there is None else there is wanted)
    inside = judge(native(match({"exthdr": {"name": name, "field": "nexthdr"}}, 1)), facts)
    assert inside.fits is (False if there is False else None)
    assert (inside.because or "").endswith("(it is missing)") is (there is False)


@pytest.mark.parametrize(("in_", "frames"), [(None, False), ("eth0", True)])
def test_a_length_that_nobody_has_checked(in_, frames):
    """What a host sends, and frames, which IP has not seen, are as long as they are."""
    data = ipv6(44, b"", 0)
    facts = replace(FACTS, header=packet.header(data, 10), bits=Bits(data, joined=True))
    facts = replace(facts, in_=in_, frames=frames)
    exists = native(match({"exthdr": {"name": "frag"}}, True))
    assert judge(exists, facts).fits is None
    assert judge(exists, replace(facts, bits=facts.bits._replace(behind=bytes(8)))).fits is True


SRC_DPORT = {"concat": [payload("ip", "saddr"), DPORT]}
SECOND = 1_000_000_000
SETS = {
    "plain": NftSet((Member("10.0.1.2"),)),
    "other": NftSet((Member("10.0.1.3"), Member(nft_matches.Range("10.0.2.0", "10.0.2.9")))),
    "grown": NftSet((Member("10.0.1.2"),), changing=True),
    "timed": NftSet((Member("10.0.1.2", 10), Member("10.0.1.9")), (50 * SECOND, 60 * SECOND), expiring=True),
    "none": NftSet((Member("10.0.1.9", 10),), (50 * SECOND, 60 * SECOND), expiring=True),
    "pairs": NftSet((Member(nft_matches.Joined(("10.0.1.2", nft_matches.Range(50, 60)))),)),
}  # fmt: skip
NAMED = [
    (payload("ip", "saddr"), "plain", 55, True),
    (payload("ip", "saddr"), "other", 55, False),
    (payload("ip", "saddr"), "grown", 55, None),
    (payload("ip", "saddr"), "gone", 55, None),
    (payload("ip", "saddr"), "timed", 40, True),
    (payload("ip", "saddr"), "timed", 58, True),
    (payload("ip", "saddr"), "timed", 65, None),
    (payload("ip", "saddr"), "timed", 90, False),
    (payload("ip", "saddr"), "none", 55, None),
    (payload("ip", "saddr"), "none", 61, False),
    (payload("ip6", "saddr"), "plain", 55, False),
    (SRC_DPORT, "pairs", 55, True),
]  # fmt: skip


@pytest.mark.parametrize(("left", "name", "time", "fits"), NAMED)
def test_named_sets(left, name, time, fits):
    """By their members at the packet's time; unsure where rules or time change them."""
    facts = replace(
        FACTS, nft_sets=lambda one: [SETS.get(one)], time_ns=(time * SECOND, time * SECOND)
    )
    assert judge(native(match(left, f"@{name}")), facts).fits is fits


def test_a_set_that_changed_just_then():
    """Where it may have been in either state, it is known only if both have it, or neither."""
    facts = replace(FACTS, nft_sets=lambda one: [SETS[one], SETS["other"]])
    assert judge(native(match(payload("ip", "saddr"), "@plain")), facts).fits is None
    assert judge(native(match(payload("ip", "saddr"), "@other")), facts).fits is False


def test_a_condition_that_fails_decides():
    """Whatever is not understood before and after it."""
    found = judge(native("jump {", match(DPORT, 54), {"new": 1}), FACTS)
    assert (found.fits, found.because) == (False, "udp dport 54 (it is 53)")


def test_a_comment_is_not_a_condition():
    rule = {"family": "ip", "table": "t", "chain": "c", "handle": 7, "comment": "a b",
            "expr": [{"limit": {"rate": 1, "per": "hour"}}]}  # fmt: skip
    text = 'table ip t {\n\tchain c {\n\t\tlimit rate 1/hour comment "a b" # handle 7\n\t}\n}\n'
    listing = json.dumps({"nftables": [{"rule": rule}]}).encode()
    (found,) = nft_json.parse(listing, text.encode()).chains["ip", "t"]["c"].rules
    assert judge(found, FACTS).because == "limit rate 1/hour"


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        (UDP | {"frag": 1480}, None),  # the kernel takes its data for ports
        (UDP | {"ext": ["hopopt"]}, None),  # and here the trace has others' bytes in their place
        ({"src": None, "dst": None, "proto": None}, None),
    ],
)
def test_headers_that_are_not_there(header, fits):
    facts = Facts(header, 0, None, None, None, None, None)
    assert judge(native(match(DPORT, 53)), facts).fits is fits


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("udp dport 54 accept", "udp dport 54 (it is 53)"),
        ("limit rate 1/hour ip saddr != 10.0.0.0/8 drop", "ip saddr != 10.0.0.0/8 (it is 10.0.1.2)"),
        ('iifname "v1" udp dport 1-9', 'iifname "v1" (it is eth0)'),
        ("meta mark 0x00000001 drop", "meta mark 0x00000001 (it is 0x6)"),
        ("meta mark set 0x00000001", None),
        ("udp dport 53 jump { udp dport 1 drop; }", None),
        ("ip saddr . udp dport { 10.0.0.1 . 54 } drop", None),
        ("ct original ip saddr 10.0.0.1 drop", None),
        ("fib saddr . iif oif missing drop", None),
        ("update @s { ip6 saddr timeout 1m } drop", None),
    ],
)  # fmt: skip
def test_by_the_text_alone(text, because):
    """Where nft's JSON cannot be read, comparisons with one value are judged all the same, and no is all."""
    printed = f"table inet t {{\n\tchain c {{\n\t\t{text} # handle 1\n\t}}\n}}\n"
    (rule,) = nft_json.parse(b"", printed.encode()).chains["inet", "t"]["c"].rules
    found = judge(rule, FACTS)
    rest = None, "what only its text tells"
    assert (found.fits, found.because) == ((False, because) if because else rest)


def test_words_are_those_of_nft():
    """Of each condition that is understood, in what nft prints of its statements."""
    chains = nft_json.parse(
        (DATA / "statements.json").read_bytes(), (DATA / "statements.txt").read_bytes()
    ).chains
    seen = 0
    for rule in (one for each in chains.values() for chain in each.values() for one in chain.rules):
        for one in rule.matches:
            if isinstance(one, Match):
                assert words(one) in rule.spec
                seen += 1
    assert seen > 50


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from(["tcp", "dport", "10.0.0.1", "new", "syn", "udp", "\ud800", "@s", "cs1", "local", "lo"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["set", "range", "prefix", "addr", "len", "&", "meta", "key", "concat", "elem", "val", "|", "<<"]
        ),
        inner,
    ),
    max_leaves=6,
)  # fmt: skip
KEYS = [
    "meta mark",
    "meta iifname",
    "meta protocol",
    "ip saddr",
    "ip dscp",
    "ip6 saddr",
    "ip6 nexthdr",
    "tcp dport",
    "tcp flags",
    "udp length",
    "icmp type",
    "icmp mtu",
    "ether saddr",
    "th dport",
    "ct state",
    "ct mark",
]
CAPTURED = bytes.fromhex("4500001d000700004011000a0a0001020a00010100090035000900") + bytes(3)
OTHERS = [
    raw("nh", -8, 8), raw("nh", 8, 0), raw("th", 8, -4), raw("nh", 8, 8), raw("th", 0, 16), raw("ll", 0, 48),
    {"fib": {"result": "type", "flags": ["daddr"]}},
    {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, {"exthdr": {"name": "frag"}},
    {"exthdr": {"name": "hbh", "field": "nexthdr"}}, {"tcp option": {"name": "sack"}},
    {"ct": {"key": "ip saddr", "dir": "reply"}}, {"concat": [payload("ip", "saddr"), meta("mark")]},
]  # fmt: skip
LEFTS = st.sampled_from(OTHERS) | st.sampled_from(KEYS).map(
    lambda key: (
        {key.split()[0]: {"key": key.split()[1]}}
        if key.startswith(("meta", "ct"))
        else payload(*key.split())
    )
)


@given(
    LEFTS | JSON | st.lists(LEFTS | JSON, min_size=2, max_size=2).map(lambda both: {"&": both}),
    st.sampled_from(["==", "!=", "<", ">", "<=", ">=", "in", "!"]) | JSON,
    JSON,
    st.sampled_from(
        [UDP, UDP | {"proto": "tcp", "flags": "SYN,ECE"}, UDP | {"src": "::1", "dst": "::2"}]
    ),
)
def test_no_condition_raises(left, op, right, header):
    """And what is told of it can be written anywhere."""
    found = nft_matches.read("match", {"left": left, "op": op, "right": right})
    found += nft_matches.read("vmap", {"key": left, "data": {"set": [[right, None]]}})
    found += nft_matches.read("mangle", {"key": left, "value": right})
    rule = Rule("words", None, None, False, None, True, syntax="nft", matches=tuple(found))
    facts = Facts(header, 1, "a", None, None, None, "02:00:00:00:00:01", ct_state=2)
    for bits in (Bits(), Bits(CAPTURED, bytes(14))):
        (judge(rule, replace(facts, bits=bits)).because or "").encode()
        for matched in (True, False):
            after(rule, replace(facts, bits=bits), matched=matched)
    assert hash(tuple(found)) is not None


FIB_WAY = {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}


def test_ways_that_may_have_been():
    """What depends on which is not known, and what it may have been is told."""
    fib = SimpleNamespace(types=lambda *_: None, ways=lambda *_: frozenset({"v1", ""}))
    found = judge(native(match(FIB_WAY, False)), replace(FACTS, fib=fib))
    assert (found.fits, found.because) == (None, "fib saddr . iif oif missing (it is none or v1)")


# The hook, the protocol, the kernel: whether there is a way to the packet's own address. At INPUT the kernel
# answers lo since Linux 6.15, and what a socket remembers that was found before the rules.
BY_LOOPBACK = [
    (0, "udp", (6, 1), "lo"),
    (0, "udp", (0, 0), "lo"),
    (1, "icmp", (6, 15), "lo"),
    (1, "icmp", (6, 14), "none or lo"),
    (1, "udp", (6, 18), "none or lo"),
    (2, "udp", (6, 18), "none"),
]


@pytest.mark.parametrize(("hook", "protocol", "kernel", "way"), BY_LOOPBACK)
def test_what_came_in_by_loopback_is_not_looked_up(hook, protocol, kernel, way):
    fib = SimpleNamespace(types=lambda *_: {2}, ways=lambda *_: frozenset({""}))
    facts = replace(
        FACTS,
        fib=fib,
        header=UDP | {"proto": protocol},
        in_="lo",
        in_type=772,
        hook=hook,
        kernel=kernel,
    )
    condition = match({"fib": {"result": "oif", "flags": ["daddr"]}}, False)
    found = judge(native(condition), facts)
    assert found.fits is {"lo": False, "none": True}.get(way)
    assert found.remark == ("" if found.fits else f"it is {way}")


STRANGE = [
    -1,
    2**200,
    1.5,
    None,
    "cs1",
    "x",
    {"|": ["syn", "x"]},
    {"map": 1},
    {"&": [payload("ip", "ttl"), 2**99]},
]


@pytest.mark.parametrize("value", STRANGE)
@pytest.mark.parametrize(
    "key", [*OTHERS, meta("mark"), payload("ip", "ttl"), payload("tcp", "flags"), 1, None]
)
def test_no_write_raises(key, value):
    """Whatever a rule sets to whatever: nothing is known of what is not understood."""
    statements = tuple(nft_matches.read("mangle", {"key": key, "value": value}))
    assert any(isinstance(one, nft_matches.Writes) for one in statements)
    rule = Rule("words", None, None, False, None, True, syntax="nft", matches=statements)
    found = after(rule, replace(FACTS, bits=Bits(CAPTURED)), matched=True)
    assert len(found.bits.captured) == len(CAPTURED)


@pytest.mark.parametrize(
    ("left", "right", "because"),
    [
        (payload("ip", "ttl"), 64, "ip ttl 64 (it is IPv6)"),
        (payload("ip", "protocol"), "udp", "ip protocol udp (it is IPv6)"),
        (payload("ip", "daddr"), "10.0.1.1", "ip daddr 10.0.1.1 (it is IPv6)"),
        (payload("ip", "id"), 7, "ip id 7 (it is IPv6)"),
        (meta("protocol"), "ip", "meta protocol ip (it is ip6)"),
    ],
)
def test_of_a_header_that_is_cut_off_the_version_is_known(left, right, because):
    """Where its addresses are not."""
    header = {
        "src": None,
        "dst": None,
        "proto": None,
        "length": 85,
        "hop_limit": 64,
        "truncated": True,
    }
    found = judge(native(match(left, right)), replace(FACTS, header=header))
    assert (found.fits, found.because) == (False, because)
