"""What nft prints in names and in numbers becomes the same text; what is no such thing stays as it is."""

from __future__ import annotations

import json

import pytest

from iptrec.answers.nft_numbers import numeric

STATE, PROTOCOL = {"ct": {"key": "state"}}, {"meta": {"key": "l4proto"}}
FLAGS, ETHER = (
    {"payload": {"protocol": one, "field": two}}
    for one, two in (("tcp", "flags"), ("ether", "type"))
)
PAIR = {"concat": [PROTOCOL, {"payload": {"protocol": "th", "field": "dport"}}]}


def match(left, right):
    return json.dumps([{"match": {"op": "==", "left": left, "right": right}}])


ALIKE = {
    "a state": (match(STATE, ["new", "established"]), match(STATE, [8, 2])),
    "a set": (match(PROTOCOL, {"set": ["tcp", "udp"]}), match(PROTOCOL, {"set": [6, 17]})),
    "a mask": (match({"&": [FLAGS, ["syn", "ack"]]}, "syn"), match({"&": [FLAGS, [2, 16]]}, 2)),
    "a pair": (
        match(PAIR, {"set": [{"concat": ["tcp", "ssh"]}]}), match(PAIR, {"set": [{"concat": [6, 22]}]}),
    ),
    "an ethertype, its bytes in the other order": (match(ETHER, "ip6"), match(ETHER, 0xDD86)),
    "a map": (
        json.dumps([{"vmap": {"key": STATE, "data": {"set": [["new", {"drop": None}]]}}}]),
        json.dumps([{"vmap": {"key": STATE, "data": {"set": [[8, {"drop": None}]]}}}]),
    ),
    "what is written": (
        json.dumps([{"mangle": {"key": {"payload": {"protocol": "ip", "field": "dscp"}}, "value": "cs1"}}]),
        json.dumps([{"mangle": {"key": {"payload": {"protocol": "ip", "field": "dscp"}}, "value": 8}}]),
    ),
    "a rejection": (
        json.dumps([{"reject": {"type": "icmp", "expr": "host-unreachable"}}]),
        json.dumps([{"reject": {"type": "icmp", "expr": 1}}]),
    ),
    "what is there": ("exthdr hbh exists accept", "exthdr hbh 1 accept"),
    "what is not": ("fib saddr . iif oif missing drop", "fib saddr . iif oif 0 drop"),
    "a kind of interface": ("meta oiftype ether accept", "meta oiftype 1 accept"),
}  # fmt: skip


@pytest.mark.parametrize("case", ALIKE)
def test_names_are_numbers(case):
    """Of a rule, as JSON and as text."""
    names, numbers = ALIKE[case]
    assert names != numbers
    assert numeric(names) == numeric(numbers)


ELEMENTS = {
    "of a protocol and a port": (
        'type ["inet_proto","inet_service"]', '{"concat":["tcp",22]}', '{"concat":[6,22]}',
    ),
    "of a map": ("type inet_service : verdict", '"ssh" : accept', "22 : accept"),
    "to an address and a port": (
        "type inet_service : ipv4_addr . inet_service",
        '"http" : 10.0.0.1 . "http-alt"', "80 : 10.0.0.1 . 8080",
    ),
    "ethertypes": ("type ether_type", "ip", "8"),
}  # fmt: skip


@pytest.mark.parametrize("case", ELEMENTS)
def test_elements_of_a_set(case):
    """By the type that its definition tells."""
    of, names, numbers = ELEMENTS[case]
    assert numeric(names, of=of) == numeric(numbers, of=of)


OTHER = {
    "a value": (match(STATE, "new"), match(STATE, 2)),
    "another key": (match(PROTOCOL, 6), match(STATE, 6)),
    "the verdict": ('[{"accept":null}]', '[{"drop":null}]'),
    "a chain that is called so": ("jump missing", "jump 0"),
}


@pytest.mark.parametrize("case", OTHER)
def test_others_differ(case):
    """What is not the same does not become the same."""
    one, other = OTHER[case]
    assert numeric(one) != numeric(other)


ODD = (
    "[" * 100_000, "[" * 900 + "]" * 900, "{", "[NaN]", '{"&":[]}', '[{"&":3}]', '[{"concat":[]}]',
    match({}, 1), match({"&": []}, "x"), match({"concat": []}, {"concat": []}), match({"concat": [1]}, ["x"]),
    match(STATE, "x"), match({"payload": 3}, "x"), match(ETHER, "9" * 5000), match(ETHER, -1),
    match(STATE, {"concat": [1, 2, 3]}), '[{"vmap":{"key":1,"data":{"set":[[],[1],3]}}}]',
    '[{"reject":{"type":"icmpx","expr":[]}}]',
)  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_what_nft_does_not_print(text):
    """No error, whatever it is."""
    assert isinstance(numeric(text), str)
    assert isinstance(numeric(text, of='type ["ct_state"]'), str)
    assert isinstance(numeric(text, of="type []; map {}"), str)
