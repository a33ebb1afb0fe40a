"""Conditions of native rules of nf_tables: by nft's JSON, by its text alone, and by what a stranger wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode.rulesets import nft_json, nft_matches
from iptrec.decode.rulesets.nft_matches import Match
from iptrec.decode.rulesets.types import Rule
from iptrec.matching import judge
from iptrec.matching.facts import Facts
from iptrec.matching.nft_words import words

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
    (match(payload("tcp", "dport"), 53, "!="), False, "tcp dport != 53 (it is udp)"),
    (match(payload("ip6", "saddr"), "::1", "!="), False, "ip6 saddr != ::1 (it is 10.0.1.2)"),
    (match(meta("oifname"), "v*"), False, 'oifname "v*" (it is none)'),
    (match(meta("iifname"), "eth\\*"), False, 'iifname "eth\\*" (it is eth0)'),
    (match({"&": [meta("mark"), 5]}, 5), False, "meta mark & 0x00000005 == 0x00000005 (it is 0x6)"),
    (match({"ct": {"key": "state"}}, ["established", "related"], "in"), False,
     "ct state established,related (it is new)"),
    (match({"ct": {"key": "mark", "dir": "reply"}}, 1), None, "ct reply mark"),
    (match(payload("ip", "saddr"), "@good"), None, "ip saddr @good"),
    (match(payload("tcp", "x"), 1), None, "tcp x"),
    ({"limit": {"rate": 1}}, None, ""),
    ({"counter": None}, True, None),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "fits", "because"), CASES)
def test_judgements(statement, fits, because):
    """Yes, no and why not; or the whole rule, where it depends on what is not known."""
    rule = native(statement, {"accept": None}, text='words accept comment "no # words"')
    found = judge(rule, FACTS)
    assert (found.fits, found.because) == (fits, rule.spec if because == "" else because)


def test_a_condition_that_fails_decides():
    """Whatever is not understood before and after it."""
    found = judge(native("jump {", match(DPORT, 54), {"new": 1}), FACTS)
    assert (found.fits, found.because) == (False, "udp dport 54 (it is 53)")


def test_a_comment_is_not_a_condition():
    rule = {"family": "ip", "table": "t", "chain": "c", "handle": 7, "comment": "a b",
            "expr": [{"limit": {}}]}  # fmt: skip
    text = 'table ip t {\n\tchain c {\n\t\tlimit rate 1/hour comment "a b" # handle 7\n\t}\n}\n'
    listing = json.dumps({"nftables": [{"rule": rule}]}).encode()
    (found,) = nft_json.parse(listing, text.encode()).chains["ip", "t"]["c"].rules
    assert judge(found, FACTS).because == "limit rate 1/hour"


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        (UDP | {"frag": 1480}, False),  # it has no ports
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
    assert (found.fits, found.because) == ((False, because) if because else (None, text))


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
    | st.sampled_from(["tcp", "dport", "10.0.0.1", "new", "syn", "udp", "\ud800", "@s"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["set", "range", "prefix", "addr", "len", "&", "meta", "key"]), inner),
    max_leaves=6,
)  # fmt: skip
KEYS = [
    "meta mark",
    "meta iifname",
    "ip saddr",
    "ip dscp",
    "ip6 saddr",
    "tcp dport",
    "tcp flags",
    "udp length",
    "icmp type",
]
LEFTS = st.sampled_from(KEYS).map(
    lambda key: meta(key.split()[1]) if key.startswith("meta") else payload(*key.split())
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
    rule = Rule("words", None, None, False, None, True, syntax="nft", matches=tuple(found))
    told = judge(rule, Facts(header, 1, "a", None, None, None, "02:00:00:00:00:01", ct_state=2))
    (told.because or "").encode()
    assert hash(tuple(found)) is not None
