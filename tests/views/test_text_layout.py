"""Text for people: safe on a terminal, and what each option changes."""

from __future__ import annotations

import pytest

from iptrec.packets.model import CtInfo, RulePlace, Step, Traversal
from iptrec.views import text

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
    "ct": (
        step(ct=CtInfo(7, 1, 6, 2)), text.Layout(ct=True),
        "NFMARK=0x0 CTID=7 CTDIR=reply CTSTATE=established CTSTATUS=seen-reply,assured\n",
    ),
    "ct_untracked": (step(ct=CtInfo(None, None, None, 64)), text.Layout(ct=True), "0x0 CTSTATE=untracked\n"),
    "ct_unknown": (step(ct=CtInfo(7, None, 0, None)), text.Layout(ct=True), "NFMARK=0x0 CTID=7\n"),
    "ct_off": (step(ct=CtInfo(7, 1, 6, 2)), text.Layout(), "NFMARK=0x0\n"),
    "no_rules": (step(), text.Layout(rules=False), "MATCH RULE (#2) /* no udp */\n"),
    "unknown_rule": (
        step(spec=None, target=None), text.Layout(), "(its text was not recorded)\n\t\t=> ?",
    ),
    "unknown_rule_of_legacy": (
        step(spec=None, type="unknown"), text.Layout(), "(#2), OR THE END: (not in the recorded ruleset)\n",
    ),
    "unseen_rule_of_nft": (
        step(spec=None), text.Layout(), "MATCH RULE (#2): (its text was not recorded)\n",
    ),
    "changed": (step(changed={"dst": ("a", "b")}), text.Layout(), "DST=b (was a)\n"),
    "header_gone": (step(changed={"tos": (1, None)}), text.Layout(), "TOS=(none) (was 01)"),
    "quoted": (
        step(changed={"inner": ({"src": "a", "dst": "b"}, {"src": "a", "dst": "c"})}),
        text.Layout(), "NFMARK=0x0 [DST=c (was b) ]\n",
    ),
    "cut": (step(changed={"truncated": (None, True)}), text.Layout(), "TRUNCATED=yes (was (none))"),
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


def test_iface_changes_can_be_left_out():
    """--no-iface-changes: the names stand in the header alone."""
    one = step(changed={"in": (None, "eth0")})
    assert text.render(packet(one), text.Layout(iface_changes=False)).count("IN=eth0") == 1


HEADERS = {
    "icmp": (
        {"type": 8, "code": 0, "name": "echo-request", "icmp_id": 7, "icmp_seq": 1},
        "TYPE=8 CODE=0 (echo-request) ICMPID=7 ICMPSEQ=1\n",
    ),
    "icmp_error": (
        {"type": 3, "code": 3, "inner": {"src": "10.9.9.9", "proto": "udp"}},
        "TYPE=3 CODE=3 [SRC=10.9.9.9 PROTO=UDP ]\n",
    ),
    "ipv6": (
        {"hop_limit": 64, "flow_label": 5, "ext": ["hopopt", "fragment"], "frag": 0, "mf": True},
        "HOPLIMIT=64 FLOWLBL=5 FRAG=0 MF EXT=hopopt,fragment\n",
    ),
    "last_fragment": ({"frag": 1480, "mf": False, "proto": "99"}, "FRAG=1480 PROTO=99\n"),
    "cut_off": ({"src": None, "dst": None, "length": 3, "truncated": True}, "LEN=3 TRUNCATED\n"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_header_line(case):
    """Names of the LOG target; what a packet does not have is not printed."""
    header, expected = HEADERS[case]
    assert text.render(packet(header=header), text.Layout()).endswith(
        f"\nIN=eth0 OUT= {expected}\t(no chain but iptrec's own saw it)\n"
    )


def test_incomplete_says_why():
    """What was not seen is not claimed."""
    shown = text.render(packet(step(), complete=False, reason="because"), text.Layout())
    assert "(incomplete: because)" in shown


def test_every_doubt_is_named():
    """Ambiguous and incomplete together; an unknown verdict with its reason alone; else nothing."""
    doubtful = packet(step(), complete=False, ambiguous=True, reason="because")
    assert "(incomplete and ambiguous: because)\n" in text.render(doubtful, text.Layout())
    unknown = packet(step(), verdict="UNKNOWN", decided_by=None, reason="because")
    assert " UNKNOWN (because)\n" in text.render(unknown, text.Layout())
    assert "(" not in text.render(packet(step()), text.Layout()).splitlines()[0]


@pytest.mark.parametrize(
    "evil", ["\x1b[2J", "\x07", "\u202e", "\n#9 fake", "\x9b1m", "\ud800", "\r", "\U000e0041"]
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
        verdict=f"V{evil}",
        complete=False,
        decided_by=RulePlace(evil, evil, None),
    )
    for layout in (text.Layout(phys=True), text.Layout(rules=False)):
        shown = text.render(hostile, layout)
        assert evil not in shown
        assert len(shown.splitlines()) == 5
