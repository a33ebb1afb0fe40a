"""`iptrec diff` of all that nft prints of the kernel's rules: what changed is told, and nothing else."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from command import IPTREC, iptrec

pytestmark = pytest.mark.live

DATA = Path(__file__).parents[1] / "data" / "nft"
RULES = (DATA / "every.nft").read_text()
FORMS = {
    "text": (
        [],
        ["-a"],
        ["-s"],
        ["-a", "-s"],
        ["-n"],
        ["-n", "-s"],
        ["-S"],
        ["-y"],
        ["-p"],
        ["-T"],
    ),
    "JSON": (["-j"], ["-j", "-a"], ["-j", "-s"], ["-j", "-n"], ["-j", "-n", "-s"], ["-j", "-S"]),
}
# nft 1.0.6 may break off its JSON at a table with flags.
AWAKE = RULES.replace("\tflags dormant\n", "").replace("flags dormant; ", "")
# What is written of every.nft, what in its place, where the change is, and whether nft 1.0.6 prints it in JSON.
CHANGES = {
    "an empty table went": ("table ip empty { }\n", "", "ip empty", True),
    "a table came": ("table ip empty { }", "table ip empty { }\ntable ip6 new { }", "ip6 new", True),
    "a table wakes": ("table ip6 x { flags dormant; }", "table ip6 x { }", "ip6 x/table", None),
    "a table sleeps": ("table ip empty { }", "table ip empty { flags dormant; }", "ip empty/table", None),
    "comment of a table": ('"a table"', '"another"', "inet t/table", False),
    "comment of a table came": ("table ip empty { ", 'table ip empty { comment "x"; ', "ip empty/table", False),
    "comment of a rule": ("rule's", "rules", "inet t/in", True),
    "comment of a rule went": (' comment "rule\'s"', "", "inet t/in", True),
    "comment behind jump {": ('"anon"', '"other"', "inet t/in", True),
    "rule in jump {": ("tcp dport 5432 accept", "tcp dport 5433 accept", "inet t/in", True),
    "comment of a chain": ('"a chain"', '"another"', "inet t/u", False),
    "comment of a chain went": (' comment "a chain";', "", "inet t/u", False),
    "comment of a base chain": ('"a base chain"', '"another"', "inet t/in", False),
    "a plain chain came": ("chain w { }", "chain w { }\n\tchain z { }", "inet t/z", True),
    "a base chain came": (
        "chain w { }", "chain w { }\n\tchain z { type filter hook forward priority 3; policy drop; }",
        "inet t/z", True,
    ),
    "attached": ("chain w { }", "chain w { type filter hook forward priority 3; }", "inet t/w", True),
    "hook": ("hook input priority filter + 7", "hook forward priority filter + 7", "inet t/in", True),
    "priority": ("filter + 7", "filter + 8", "inet t/in", True),
    "policy": ("priority filter + 7; policy drop", "priority filter + 7; policy accept", "inet t/in", True),
    "type": ("type route hook output", "type filter hook output", "inet t/r", True),
    "device": ('ingress device "lo"', 'ingress device "d1"', "netdev nd/i", False),
    "devices": ('devices = { "lo", "d1" }', 'devices = { "d1" }', "netdev nd/i2", False),
    "hook of devices": ('egress device "lo"', 'ingress device "lo"', "netdev nd/eg", True),
    "counter": ("counter bare { }", "", "inet t/counter bare", True),
    "comment of a counter": ('"ctr"', '"other"', "inet t/counter c", True),
    "quota": ("over 25 mbytes", "over 26 mbytes", "inet t/quota q", True),
    "quota over": ("over 25 mbytes", "25 mbytes", "inet t/quota q", True),
    "limit": ("400/minute", "401/minute", "inet t/limit l", True),
    "limit per": ("400/minute", "400/hour", "inet t/limit l", True),
    "burst": ("burst 9", "burst 8", "inet t/limit l", True),
    "limit of bytes": ("burst 3 mbytes", "burst 4 mbytes", "inet t/limit l2", True),
    "helper": ('"ftp" protocol tcp', '"sip" protocol tcp', "inet t/ct helper h", True),
    "timeout of a state": ("close: 12", "close: 13", "inet t/ct timeout ti", True),
    "expectation": ("timeout 2m; size 12", "timeout 3m; size 12", "inet t/ct expectation e", True),
    "port of an expectation": ("dport 9876", "dport 9877", "inet t/ct expectation e", True),
    "mss": ("mss 1460", "mss 1400", "inet t/synproxy sy", True),
    "options of synproxy": ("timestamp sack-perm", "sack-perm", "inet t/synproxy sy", True),
    "flags of a set": ("ipv4_addr; flags constant;", "ipv4_addr;", "inet t/set k", True),
    "timeout of a set": ("timeout 1h", "timeout 2h", "inet t/set s", True),
    "gc-interval": ("gc-interval 5m", "gc-interval 6m", "inet t/set s", True),
    "size": ("size 100", "size 101", "inet t/set s", True),
    "auto-merge": ("auto-merge; ", "", "inet t/set s", False),
    "policy of a set": ("policy memory; ", "", "inet t/set s", True),
    "comment of a set": ('"a set"', '"another"', "inet t/set s", True),
    "timeout of an element": ("timeout 2h comment", "timeout 3h comment", "inet t/set s", True),
    "comment of an element": ('"ele"', '"other"', "inet t/set s", True),
    "an element that times out": (", 10.1.0.0-10.1.0.9", "", "inet t/set s", True),
    "dynamic": ("flags dynamic; size 10; quota", "size 10; quota", "inet t/set d4", False),
    "statement of a set": (
        "over 3; elements = { 1.2.3.4 ct count over 3", "over 4; elements = { 1.2.3.4 ct count over 4",
        "inet t/set d3", True,
    ),
    "counters of a set": ("counter limit rate 3/second", "limit rate 3/second", "inet t/set d6", True),
    "typeof": ("typeof ip saddr", "typeof ip daddr", "inet t/set to", False),
    "of all others": ("* comment", "1.2.3.4 comment", "inet t/set each", True),
    "key of a map": ("80 timeout", "82 timeout", "inet t/map m", True),
    "value of a map": ("81 : 1.2.3.5", "81 : 1.2.3.6", "inet t/map m", True),
    "comment in a map": ('"http"', '"https"', "inet t/map m", True),
    "timeout in a map": ("timeout 3h", "timeout 4h", "inet t/map m", True),
    "verdict": ("23 : drop", "23 : accept", "inet t/map v", True),
    "target": ("24 : jump u", "24 : jump w", "inet t/map v", True),
    "jump or goto": ("24 : jump u", "24 : goto u", "inet t/map v", True),
    "range of a map": ("1.2.3.4-1.2.3.9", "1.2.3.4-1.2.3.8", "inet t/map mi", True),
    "concatenated": ("1.2.3.0/24 . 22-23", "1.2.3.0/24 . 22-24", "inet t/map mc", True),
    "object of a map": ('1.2.3.4 : "c"', '1.2.3.4 : "bare"', "inet t/map mo", True),
    "object of a rule": ("counter name c", "counter name bare", "inet t/in", True),
}  # fmt: skip
STATES = {
    "counted": ("packets 3 bytes 4", "packets 5 bytes 6"),
    "used": ("used 3 mbytes", "used 4 mbytes"),
    "nothing": ("", ""),
}


@pytest.fixture(scope="module")
def printed(labs, tmp_path_factory):  # noqa: ARG001 - skips
    """Loads a ruleset in the place of the last one, and keeps what nft prints of it, in files by form."""
    from warm_lab import Lab

    count = itertools.count()
    with Lab() as lab:
        lab.run(["ip", "link", "add", "d1", "type", "veth", "peer", "name", "d2"])

        def load(rules, forms):
            place = tmp_path_factory.mktemp("listed") / str(next(count))
            lab.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{rules}")
            found = []
            for number, form in enumerate(forms):
                found.append(Path(f"{place}-{number}"))
                found[-1].write_text(lab.run(["nft", *form, "list", "ruleset"]).stdout)
            return found

        yield load


def answer(*operands):
    return iptrec("diff", *operands).stdout.splitlines()


def told(lines):
    """The places that an answer names."""
    return {line[3:].rpartition(" (")[0] for line in lines if line[:2] == "@@"}


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("state", STATES)
def test_the_same_rules_are_no_difference(printed, kind, state):
    """In whichever form they were printed, with handles or without, whatever was counted and how late it is."""
    old, new = STATES[state]
    rules = AWAKE if kind == "JSON" else RULES
    one, other = printed(rules, FORMS[kind]), printed(rules.replace(old, new), FORMS[kind])
    for form, (before, after) in zip(FORMS[kind], itertools.product(one, other), strict=False):
        assert answer(before, after) == ["no difference"], form
    for before in one[1:]:
        assert answer(one[0], before) == ["no difference"]


def test_what_is_kept_is_what_nft_prints(printed):
    """The files that other tests take apart are those of this nft and kernel."""
    (text,), (listed,) = printed(RULES, (["-a"],)), printed(AWAKE, (["-j"],))
    assert answer(DATA / "every.txt", text) == ["no difference"]
    assert [line for line in answer(DATA / "every.json", listed) if line[:2] == "@@"] == [
        "@@ inet t/table (inet) @@",
        "@@ ip6 x/table (ipv6) @@",
    ]


@pytest.mark.parametrize("case", CHANGES)
def test_each_property(printed, case):
    """It is told where it is, alone, in text with or without handles, and in JSON if nft prints it there."""
    old, new, place, in_json = CHANGES[case]
    assert RULES.count(old) == 1, f"{old} is not in one place"
    before = printed(RULES, ([], ["-a"], ["-s"]))
    after = printed(RULES.replace(old, new), ([], ["-a"], ["-s"]))
    for one, other in itertools.product(before, after):
        for sides in ((one, other), (other, one)):
            lines = answer(*sides)
            assert told(lines) == {place}
    if in_json is None:
        return
    sides = (printed(one, (["-j"],)) for one in (AWAKE, AWAKE.replace(old, new)))
    before, after = (one for (one,) in sides)
    for sides in ((before, after), (after, before)):
        lines = answer(*sides)
        assert told(lines) == ({place} if in_json else set())


def changed_at_once(rules):
    """A ruleset with all those changes that can be made together, and where they are."""
    places, in_json = set(), set()
    for case, (old, new, place, printed_so) in CHANGES.items():
        if rules.count(old) == 1 and case not in ("attached", "counter"):  # others need these
            rules = rules.replace(old, new)
            places.add(place)
            in_json |= {place} if printed_so else set()
    return rules, places, in_json


@pytest.mark.parametrize("rules", [AWAKE, RULES], ids=["awake", "dormant"])
def test_a_recording_tells_all_of_it(lab, tmp_path, rules):
    """At its start and end, and beside what nft printed before and after, as text or JSON."""
    lab.run(["ip", "link", "add", "d1", "type", "veth", "peer", "name", "d2"])
    rules = rules.replace("elements = { 1.2.3.4 ct count over 3 }", "")  # goes without a connection
    lab.run(["nft", "-f", "-"], stdin=rules)
    other, places, in_json = changed_at_once(rules)
    tables = re.findall(r"^table (\S+ \S+)", rules, re.MULTILINE)
    anew = tmp_path / "anew.nft"
    anew.write_text("".join(f"delete table {one}\n" for one in tables) + other)
    forms = {"text": ["-s"], "handles": ["-a"], **({"JSON": ["-j"]} if rules == AWAKE else {})}

    def keep(when):
        found = {}
        for name, form in forms.items():
            found[name] = tmp_path / f"{name}-{when}"
            found[name].write_text(lab.run(["nft", *form, "list", "ruleset"]).stdout)
        return found

    before, trace = keep("before"), tmp_path / "t.db"
    command = ["record", "-q", "-o", str(trace), "--backend", "nft", "icmp"]
    done = lab.run([*IPTREC, *command, "--", "nft", "-f", str(anew)])
    assert done.returncode == 0, done.stderr
    after = keep("after")
    assert told(answer(f"{trace}@start", f"{trace}@end")) == places
    for name in forms:
        expected = in_json if name == "JSON" else places
        assert answer(before[name], f"{trace}@start") == ["no difference"], name
        assert answer(after[name], f"{trace}@end") == ["no difference"], name
        assert told(answer(before[name], f"{trace}@end")) == expected, name
        assert told(answer(f"{trace}@start", after[name])) == expected, name
