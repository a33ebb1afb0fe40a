"""What the kernel counted, rule by rule: (family, table, chain, number) -> packets.

A rule of nf_tables gets a counter in front of its last statement, where it counts what the rule matched. Where
that statement looks up a map, which may not have the packet, a rule behind asks for the same and counts those
that went on: what is missing there was hit. That holds where every element ends the chain.
"""

from __future__ import annotations

import json
import re

from iptrec.decode.rulesets.types import OF_IPTABLES

_FAMILIES = {"ip": "ipv4", "ip6": "ipv6"}
_PROBE = "hosts.py: went on"
_COUNTER = {"counter": {"packets": 0, "bytes": 0}}
_ENDS = frozenset(
    [
        "accept",
        "drop",
        "jump",
        "goto",
        "return",
        "reject",
        "dnat",
        "snat",
        "masquerade",
        "redirect",
        "queue",
        "continue",
    ]
)


class Counters:
    """Those of the rules that are there now; a recorder's come later, and are left out."""

    def __init__(self, lab, backend):
        self._lab = lab
        self._legacy = backend == "legacy"
        self._own = (
            set() if self._legacy else {_handle(one) for one in listing(lab) if "rule" in one}
        )

    def read(self):
        """Packets of each rule, of legacy iptables of each policy (number None); None: cannot be known."""
        if self._legacy:
            return {**_legacy(self._lab, "ipv4"), **_legacy(self._lab, "ipv6")}
        return _nft(
            [one for one in listing(self._lab) if "rule" not in one or _handle(one) in self._own]
        )


def _handle(one):
    return tuple(one["rule"][key] for key in ("family", "table", "chain", "handle"))


def _legacy(lab, family):
    command = {"ipv4": "iptables-legacy-save", "ipv6": "ip6tables-legacy-save"}[family]
    found, table, numbers = {}, "", {}
    for line in lab.run([command, "-c"]).stdout.splitlines():
        if line[:1] == "*":
            table, numbers = line[1:], {}
        elif policy := re.fullmatch(r":(\S+) (?:ACCEPT|DROP) \[(\d+):\d+\]", line):
            found[family, table, policy[1], None] = int(policy[2])
        elif (rule := re.fullmatch(r"\[(\d+):\d+\] -A (\S+) .*", line)) and "iptrec:" not in line:
            numbers[rule[2]] = numbers.get(rule[2], 0) + 1
            found[family, table, rule[2], numbers[rule[2]]] = int(rule[1])
    return found


def listing(lab):
    """The objects of nft's listing."""
    return json.loads(lab.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]


def _nft(objects):
    found, chains, maps = {}, {}, {}
    for one in objects:
        if "map" in one:
            maps[one["map"]["name"]] = one["map"].get("elem", [])
        if "rule" in one:
            rule = one["rule"]
            table = rule["table"]
            if rule["family"] not in _FAMILIES or table not in OF_IPTABLES:
                table = f"{rule['family']} {table}"
            chain = _FAMILIES.get(rule["family"], rule["family"]), table, rule["chain"]
            chains.setdefault(chain, []).append(rule)
    for chain, rules in chains.items():
        for at in range(len(rules)):
            found[*chain, at + 1] = _hits(rules[at : at + 2], maps)
    return found


def _hits(rules, maps):
    counted = [_counted(rule) for rule in rules]
    if not _looks_up(rules[0]):
        return counted[0]
    if len(rules) < 2 or rules[1].get("comment") != _PROBE or _comes_back(rules[0], maps):
        return None
    return counted[0] - counted[1]


def _counted(rule):
    return next((one["counter"]["packets"] for one in rule["expr"] if "counter" in one), None)


def _looks_up(rule):
    """Whether the last statement may fail to find the packet in a map."""
    last = rule["expr"][-1]
    return "vmap" in last or ('"map"' in json.dumps(last) and next(iter(last)) in _ENDS)


def _comes_back(rule, maps):
    """Whether an element leads to a chain from which packets return."""
    data = rule["expr"][-1].get("vmap", {}).get("data", {})
    elements = maps.get(data[1:], []) if isinstance(data, str) else data.get("set", [])
    return any(
        "jump" in one[1] or "continue" in one[1] for one in elements if isinstance(one[1], dict)
    )


def add_counters(lab):
    """Load the ruleset again with one counter in every rule."""
    objects = listing(lab)
    rules = []
    for one in objects:
        if "rule" in one:
            rule = {key: value for key, value in one["rule"].items() if key != "handle"}
            rules.append({"rule": rule | {"expr": _with_counter(rule["expr"])}})
            if _looks_up(rule):
                where = {key: rule[key] for key in ("family", "table", "chain")}
                rules.append(
                    {"rule": {**where, "expr": [*_asked(rule), _COUNTER], "comment": _PROBE}}
                )
    kept = [
        [one for one in objects if kind in one]
        for kind in ("table", "chain", "ct helper", "set", "map")
    ]
    commands = [{"flush": {"ruleset": None}}, *(one for some in kept for one in some), *rules]
    lab.run(["nft", "-j", "-f", "-"], stdin=json.dumps({"nftables": commands}))


def _asked(rule):
    """What a rule asks for before it looks up its map."""
    return [one for one in rule["expr"][:-1] if "counter" not in one]


def _with_counter(statements):
    """One that counts what matched: a counter in front of a statement that asks for more counts too much."""
    statements = [one for one in statements if "counter" not in one] or [_COUNTER]
    at = len(statements) - 1 if next(iter(statements[-1])) in _ENDS | {"vmap"} else len(statements)
    return statements if _COUNTER in statements else [*statements[:at], _COUNTER, *statements[at:]]
