"""Text for people: safe on a terminal, and what each option changes."""

from __future__ import annotations

import pytest

from iptrec.analyze.traversal import RulePlace, Step, Traversal
from iptrec.views import text
from iptrec.views.escape import printable

HEADER = {"src": "10.0.0.1", "dst": "10.0.0.2", "proto": "udp", "length": 29, "csum": 255}


def step(**more):
    """A rule that drops."""
    values = {
        "time_ns": 1, "table": "filter", "chain": "INPUT", "type": "rule", "rule": 2,
        "spec": "-p udp -j DROP", "comment": "no udp", "target": "DROP", "target_args": None,
        "mark": 0, "in_": "eth0", "out": None, "physin": "eth0p", "physout": None, "header": HEADER,
    }  # fmt: skip
    return Step(**(values | more))


def packet(*steps, **more):
    """A traversal that was dropped."""
    values = {
        "number": 1, "time_ns": 1_500_000_000_000_000_001, "family": "ipv4", "netns": None,
        "in_": "eth0", "out": None, "header": HEADER, "link": None, "verdict": "DROP",
        "decided_by": RulePlace("filter", "INPUT", 2), "complete": True, "ambiguous": False,
        "reason": None, "steps": steps,
    }  # fmt: skip
    return Traversal(**(values | more))


def test_layout():
    """Number, time, verdict and decider; the header; each step with its rule and target."""
    assert text.render(packet(step()), text.Layout()) == (
        "#1 2017-07-14T02:40:00.000000001Z ipv4 DROP by filter/INPUT rule 2\n"
        "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=29 PROTO=UDP CSUM=00ff\n"
        "\tfilter INPUT NFMARK=0x0\n"
        "\t\tMATCH RULE (#2): -p udp -j DROP\n"
        "\t\t=> DROP\n"
    )


OPTIONS = {
    "phys": (step(), text.Layout(phys=True), "PHYSIN=eth0p PHYSOUT=\n"),
    "no_rules": (step(), text.Layout(rules=False), "MATCH RULE (#2) /* no udp */\n"),
    "unknown_rule": (
        step(spec=None, target=None), text.Layout(), "(not in the recorded ruleset)\n\t\t=> ?",
    ),
    "changed": (step(changed={"dst": ("a", "b")}), text.Layout(), "DST=b (was a)\n"),
    "header_gone": (step(changed={"tos": (1, None)}), text.Layout(), "TOS=(none) (was 01)"),
    "iface": (step(changed={"in": (None, "eth0")}), text.Layout(), "IN=eth0 OUT=\n\t\tMATCH"),
    "mark": (step(mark=5, changed={"mark": (1, 5)}), text.Layout(), "NFMARK=0x5 (mark was 0x1)"),
    "colour": (step(), text.Layout(colour=True), "=> \x1b[31mDROP\x1b[0m"),
    "implicit_return": (
        step(type="return", rule=None, spec=None, target="RETURN"),
        text.Layout(), "NFMARK=0x0\n\t\t=> RETURN\n",
    ),
    "policy": (
        step(type="policy", rule=None, spec=None), text.Layout(), "\t\tDEFAULT POLICY\n\t\t=> DROP\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case):
    """Each option and each kind of step prints its own words."""
    one, layout, expected = OPTIONS[case]
    assert expected in text.render(packet(one), layout)


def test_iface_changes_and_chains_can_be_left_out():
    """--no-iface-changes and --chain."""
    steps = step(changed={"in": (None, "eth0")}), step(chain="OTHER")
    shown = text.render(
        packet(*steps), text.Layout(iface_changes=False, chains=frozenset({("filter", "INPUT")}))
    )
    assert shown.count("IN=eth0") == 1  # the header's
    assert "OTHER" not in shown


def test_incomplete_says_why():
    """What was not seen is not claimed."""
    shown = text.render(packet(step(), complete=False, reason="because"), text.Layout())
    assert "(incomplete: because)" in shown


@pytest.mark.parametrize(
    "evil", ["\x1b[2J", "\x07", "\u202e", "\n#9 fake", "\x9b1m", "\ud800", "\r"]
)
def test_nothing_from_the_file_reaches_the_terminal_raw(evil):
    """Escape sequences, bidi controls and newlines in names, rules and comments are made visible."""
    one = step(
        spec=f"a{evil}", chain=f"c{evil}", table=f"t{evil}", target=f"T{evil}", target_args=evil,
        comment=evil, in_=evil, out=evil, physin=evil,
        changed={"in": (None, evil), "dst": (evil, evil)},
    )  # fmt: skip
    hostile = packet(
        one,
        in_=evil,
        netns=evil,
        reason=evil,
        complete=False,
        decided_by=RulePlace(evil, evil, None),
    )
    for layout in (text.Layout(phys=True), text.Layout(rules=False)):
        shown = text.render(hostile, layout)
        assert evil not in shown
        assert len(shown.splitlines()) == 5
    assert printable(evil).isascii()
