"""Differences of rulesets: exactly the edits that were made."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.answers.diff import Difference, Kind, compare
from iptrec.answers.diff_objects import compare_all
from iptrec.cli.operands import Operand
from iptrec.decode.rulesets import iptables_save
from iptrec.decode.rulesets.nft_objects import Object
from iptrec.decode.rulesets.types import Chain, Rule, Ruleset
from iptrec.views.diff import as_text, summary

REAL = sorted((Path(__file__).parents[1] / "data" / "rulesets").glob("*.rules")) + sorted(
    (Path(__file__).parents[2] / "samples").glob("*.rules")
)


def rules(*lines, policy="ACCEPT", chains=""):
    text = f"*filter\n:INPUT {policy} [1:2]\n{chains}" + "".join(f"-A {one}\n" for one in lines)
    return {"ipv4": iptables_save.parse((text + "COMMIT\n").encode())}


def told(old, new):
    return [
        (one.kind, one.chain, one.old_rule, one.new_rule, one.old, one.new)
        for one in compare(old, new)
    ]


A, B, C, D = (f"-s 10.0.0.{n}/32 -j DROP" for n in range(1, 5))
CASES = {
    "nothing": (rules("INPUT -j DROP"), rules("INPUT -j DROP"), []),
    "counters": (
        rules("INPUT -j DROP"),
        {"ipv4": iptables_save.parse(b"*filter\n:INPUT ACCEPT [7:8]\n[1:2] -A INPUT -j DROP\nCOMMIT\n")},
        [],
    ),
    "inserted": (
        rules(f"INPUT {A}", f"INPUT {B}"), rules(f"INPUT {A}", "INPUT -p tcp -j LOG", f"INPUT {B}"),
        [("inserted", "INPUT", None, 2, None, "-p tcp -j LOG")],
    ),
    "deleted": (
        rules(f"INPUT {A}", "INPUT -p tcp -j LOG"), rules(f"INPUT {A}"),
        [("deleted", "INPUT", 2, None, "-p tcp -j LOG", None)],
    ),
    "changed": (
        rules(f"INPUT {A}", "INPUT -p tcp -m tcp --dport 80 -j DROP", f"INPUT {B}"),
        rules(f"INPUT {A}", "INPUT -p tcp -m tcp --dport 81 -j DROP", f"INPUT {B}"),
        [("changed", "INPUT", 2, 2, "-p tcp -m tcp --dport 80 -j DROP", "-p tcp -m tcp --dport 81 -j DROP")],
    ),
    "moved": (
        rules(*(f"INPUT {one}" for one in (A, B, C, D))), rules(*(f"INPUT {one}" for one in (B, C, D, A))),
        [("moved", "INPUT", 1, 4, A, A)],
    ),
    "policy": (rules(), rules(policy="DROP"), [("policy", "INPUT", None, None, "ACCEPT", "DROP")]),
    "created": (
        rules(), rules("x -j DROP", chains=":x - [0:0]\n"),
        [("chain created", "x", None, None, None, None), ("inserted", "x", None, 1, None, "-j DROP")],
    ),
    "renamed": (
        rules("INPUT -j x", f"x {A}", f"x {B}", chains=":x - [0:0]\n"),
        rules("INPUT -j y", f"y {A}", f"y {B}", chains=":y - [0:0]\n"),
        [("chain renamed", "x", None, None, "x", "y")],
    ),
    "twins": (
        rules("INPUT -j LOG", "INPUT -j LOG"), rules("INPUT -j LOG", "INPUT -j LOG", "INPUT -j LOG"),
        [("inserted", "INPUT", None, 3, None, "-j LOG")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_differences(case):
    """Each kind of change by itself."""
    old, new, expected = CASES[case]
    assert told(old, new) == expected


def test_tables_and_chains_may_come_in_any_order():
    """Nor does an empty table count."""
    a = b"*nat\n:OUTPUT ACCEPT [0:0]\n:x - [0:0]\n:y - [0:0]\n-A x -j y\nCOMMIT\n"
    b = b"*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    b += b"*nat\n:y - [0:0]\n:x - [0:0]\n:OUTPUT ACCEPT [0:0]\n-A x -j y\nCOMMIT\n"
    assert told({"ipv4": iptables_save.parse(a)}, {"ipv4": iptables_save.parse(b)}) == []


def test_our_own_rules_do_not_count():
    """A recording is made with TRACE rules in place."""
    ours = "INPUT -m comment --comment iptrec:00000000-0000-4000-8000-000000000001 -j TRACE"
    assert told(rules(ours, f"INPUT {A}"), rules(f"INPUT {A}")) == []


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_random_edits_of_real_rulesets_are_found_exactly(path, seed, data):
    """Insertions, deletions, rewritten and moved rules, at random places of random chains."""
    text = path.read_text()
    lines = text.splitlines()
    rng = random.Random(seed)  # noqa: S311 - no secret
    twice = {line for line, times in Counter(lines).items() if times > 1}
    places = [
        i
        for i, line in enumerate(lines)
        if line.startswith("-A ") and line not in twice and i % 5 == 0
    ]
    chosen = sorted(
        rng.sample(places, min(len(places), data.draw(st.integers(0, 8)))), reverse=True
    )
    expected = Counter()
    for at in chosen:
        kind = rng.choice(["inserted", "deleted", "changed"])
        chain = lines[at].split()[1]
        if kind == "inserted":
            lines.insert(
                at, f"-A {chain} -s 192.0.2.{at % 256}/32 -m comment --comment new{at} -j LOG"
            )
        elif kind == "deleted":
            del lines[at]
        else:
            lines[at] = lines[at].replace(" -j ", f" -m comment --comment c{at} -j ", 1)
            kind = "changed" if f"c{at}" in lines[at] else None
        if kind:
            expected[kind] += 1
    old = {"ipv4": iptables_save.parse(text.encode())}
    new = {"ipv4": iptables_save.parse("\n".join([*lines, ""]).encode())}
    found = list(compare(old, new))
    alike = Counter(one.kind for one in found)
    # A deletion next to an insertion may read as one rewritten rule: both are exact.
    together = min(expected["inserted"], expected["deleted"])
    assert (
        alike["inserted"] + alike["changed"] == expected["inserted"] + expected["changed"]
        or together
    )
    assert (
        alike["deleted"] + alike["changed"] == expected["deleted"] + expected["changed"] or together
    )
    assert set(alike) <= {"inserted", "deleted", "changed"}
    back = Counter(one.kind for one in compare(new, old))
    assert (back["inserted"], back["deleted"], back["changed"]) == (
        alike["deleted"], alike["inserted"], alike["changed"],
    )  # fmt: skip


@given(
    old=st.lists(st.sampled_from("abcdef"), max_size=12),
    new=st.lists(st.sampled_from("abcdef"), max_size=12),
)
def test_differences_turn_one_into_the_other(old, new):
    """Whatever is reported accounts for every rule on both sides, twins included."""
    make = lambda names: rules(*(f"INPUT -s 10.0.0.{ord(name)}/32 -j LOG" for name in names))  # noqa: E731
    left, right = list(old), list(new)
    for kind, _, i, j, _, _ in told(make(old), make(new)):
        if i is not None:
            left[i - 1] = None
        if j is not None:
            right[j - 1] = None
        assert kind in ("inserted", "deleted", "moved", "changed")
    assert [one for one in left if one] == [one for one in right if one]


def test_text():
    """By chain, numbered as before and as now; one line sums up; no colour unless asked for."""
    old = rules(f"INPUT {A}", f"INPUT {B}", "INPUT -p tcp -m tcp --dport 1 -j DROP")
    new = rules(f"INPUT {B}", "INPUT -p tcp -m tcp --dport 2 -j DROP", policy="DROP")
    found = list(compare(old, new))
    lines = list(as_text(found, {1: [3, 4]}, colour=False))
    assert lines == [
        "@@ filter/INPUT (ipv4) @@",
        "-      policy ACCEPT",
        "+      policy DROP",
        "-    #3 -p tcp -m tcp --dport 1 -j DROP",
        "+    #2 -p tcp -m tcp --dport 2 -j DROP",
        "       hit by 2 packets: #3, #4",
        f"-    #1 {A}",
        "1 policy changed, 1 rule changed, 1 rule deleted",
    ]
    assert list(as_text(found, {1: [3, 4]}, colour=False, width=200)) == lines
    assert summary([]) == "no difference"
    assert any("\x1b[" in line for line in as_text(found, None, colour=True))


def test_a_terminal_has_a_width():
    """A rule goes on below its beginning; nothing of it is lost."""
    spec = f"-p tcp -m multiport --dports {'80,443,' * 9}8080 -m comment --comment nine -j ACCEPT"
    found = list(compare(rules(), rules(f"INPUT {spec}")))
    head, *rule, _ = as_text(found, None, colour=False, width=60)
    assert head == "@@ filter/INPUT (ipv4) @@"
    assert [line[:8] for line in rule] == ["+    #1 ", *[" " * 8] * (len(rule) - 1)]
    assert " ".join(line[8:] for line in rule) == spec
    coloured = list(as_text(found, None, colour=True, width=60))[1:-1]
    assert coloured == [f"\x1b[32m{line}\x1b[0m" for line in rule]


KINDS = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_one_and_more(kind):
    """In words that are one, or more."""
    one = Difference(kind, "ipv4", "filter", "INPUT")
    alone, two = summary([one]), summary([one, one])
    assert re.fullmatch(r"1 (rule|policy|chain|table|object|element) [a-z]+", alone), alone
    assert re.fullmatch(r"2 (rules|policies|chains|tables|objects|elements) [a-z]+", two), two
    assert summary([one] * 1234).startswith("1,234 ")


def worded(spec, native):
    return {
        "ipv4": Ruleset(
            {
                "filter": {
                    "INPUT": Chain(
                        "INPUT",
                        "ACCEPT",
                        (Rule(spec, "DROP", None, False, None, True, native=native),),
                    )
                }
            }
        )
    }


NFT = "udp dport 53 drop"


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ((A, NFT), (NFT, None), []),
        ((NFT, None), (A, NFT), []),
        ((A, NFT), (A, None), []),  # legacy iptables, or a rule with x_tables
        ((A, NFT), (B, "udp dport 54 drop"), ["changed"]),
        ((A, None), (NFT, None), ["deleted", "inserted"]),
        (("-m conntrack -j DROP", None), (f"{B} -m conntrack", None), ["deleted", "inserted"]),
    ],
)
def test_words_are_no_difference(old, new, kinds):
    """A rule that nft prints the same on both sides is the same, in whose words it is ever told."""
    assert [one.kind for one in compare(worded(*old), worded(*new))] == kinds


def test_a_renamed_chain_of_nft():
    """The jump to it is no change, in nft's words as in those of iptables."""

    def native(name):
        jump = Rule(f"udp dport 53 jump {name}", name, None, False, None, True, syntax="nft")
        rule = Rule("counter accept", "ACCEPT", None, False, None, False, syntax="nft")
        chains = (Chain("in", "ACCEPT", (jump,)), Chain(name, None, (rule,)))
        return {"ipv4": Ruleset({"inet fw": {one.name: one for one in chains}})}

    assert [one.kind for one in compare(native("a"), native("b"))] == ["chain renamed"]


@pytest.mark.parametrize(
    ("jump", "of"), [("22 : jump {}", "text"), ('[22,{{"jump":{{"target":"{}"}}}}]', "JSON")]
)
def test_a_renamed_chain_changes_no_map(jump, of):
    """Nor is it another one; its comment may be another one, which is told under the new name."""

    def side(name, comment):
        rule = Rule("counter accept", "ACCEPT", None, False, None, False, syntax="nft")
        objects = [
            Object("chain", name, f'comment "{comment}"'),
            Object("map", "m", "type inet_service : verdict", (jump.format(name),)),
        ]
        rules = Ruleset({"inet fw": {name: Chain(name, None, (rule,))}})
        return Operand({"ipv4": rules}, {("inet", "fw"): objects})

    def kinds(*comments):
        return [(one.kind, one.chain) for one in compare_all(side("a", "x"), side("b", *comments))]

    assert kinds("x") == [("chain renamed", "a")], of
    assert kinds("y") == [("chain renamed", "a"), ("object changed", "b")], of


@pytest.mark.parametrize("policy", ["ACCEPT", "DROP"])
@pytest.mark.parametrize("table", ["inet fw", "filter", "nft filter"])
def test_a_base_chain_of_nft_without_rules(table, policy):
    """It was made, also in a table that has nothing else; those of iptables come with their tables."""
    empty, made = (
        {"ipv4": Ruleset({table: {one.name: one for one in chains}})}
        for chains in ((), (Chain("INPUT", policy, ()),))
    )
    strict = ["policy"] * (policy == "DROP")
    native = table == "inet fw"
    assert [one.kind for one in compare(empty, made)] == ["chain created"] * native + strict
    assert [one.kind for one in compare(made, empty)] == ["chain deleted"] * native + strict
    kinds = [one.kind for one in compare({"ipv4": Ruleset({})}, made)]
    assert kinds[:1] == ["table loaded"] * (native or policy == "DROP")


def test_our_chains_are_not_made():
    """A recorder's own, with its rules alone."""
    rule = Rule("accept", "ACCEPT", None, False, "iptrec:1", False, syntax="nft")
    chain = Chain("input", "ACCEPT", (rule,))
    known = {"ipv4": Ruleset({"ip iptrec-1": {"input": chain}})}
    assert list(compare({"ipv4": Ruleset({})}, known)) == []
