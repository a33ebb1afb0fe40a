"""`show`: the title, what is left out, and that all of it is in --verbose and --classic."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_text_layout import HEADER, packet, step

import iptrec
from iptrec.decode.conntrack import Connection, Flow
from iptrec.packets.model import Change, CtInfo, Related, RulePlace
from iptrec.views import show, text, title
from iptrec.views.timestamps import Clock

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
UDP = HEADER | {"sport": 1000, "dport": 53}
UTC = text.Layout(clock=Clock(utc=True))
POLICY = {"type": "policy", "rule": None, "spec": None, "target": "ACCEPT"}
PING = {"src": "a", "dst": "b", "proto": "icmp"}
SIX = {"src": "fd00::1", "dst": "fd00::2", "proto": "tcp", "sport": 1, "dport": 2}

TITLES = {
    "the rule": ({}, "DROP udp 10.0.0.1:1000 > 10.0.0.2:53 in eth0 by filter/INPUT rule 2: -p udp -j DROP"),
    "policy": (
        {"decided_by": RulePlace("filter", "INPUT", None)},
        "DROP udp 10.0.0.1:1000 > 10.0.0.2:53 in eth0 by filter/INPUT policy",
    ),
    "not in the ruleset": (
        {"decided_by": RulePlace("inet fw", "__chain7", None, unlisted=True)},
        "DROP udp 10.0.0.1:1000 > 10.0.0.2:53 in eth0 by inet fw/__chain7 rule (not in the recorded ruleset)",
    ),
    "nobody": (
        {"decided_by": None, "verdict": "UNKNOWN", "complete": False, "reason": "because"},
        "UNKNOWN udp 10.0.0.1:1000 > 10.0.0.2:53 in eth0 (incomplete: because)",
    ),
    "out, of a namespace": (
        {"in_": None, "out": "to-b", "netns": "web"},
        "DROP udp 10.0.0.1:1000 > 10.0.0.2:53 out to-b netns=web by",
    ),
    "ipv6": ({"header": SIX, "family": "ipv6"}, "DROP tcp [fd00::1]:1 > [fd00::2]:2 in"),
    "by number": ({"header": UDP | {"proto": "99"}}, "DROP proto 99 10.0.0.1:1000 >"),
    "protocol not known": ({"header": {"src": "a", "dst": "b", "proto": None}}, "DROP ipv4 a > b in"),
    "addresses not known": (
        {"header": {"src": None, "dst": None, "proto": "tcp"}, "family": "ipv6"}, "DROP ipv6 tcp ? > ? in",
    ),
    "nothing known": ({"header": {"src": None, "dst": None, "proto": None}}, "DROP ipv4 packet ? > ? in"),
    "arp": ({"header": {"src": None, "dst": None, "proto": None, "ethertype": "0x0806"}}, "DROP arp in"),
    "related": (
        {"related": (Related("error-about", 3), Related("copy", 2))},
        "-j DROP (an error about #3) (a copy of #2)",
    ),
    "altered": (
        {"altered_by": Change("inserted", "filter", "INPUT", 2, "x", 1_500_000_000_123_456_789)},
        "-j DROP (rule #2 of filter/INPUT inserted at 02:40:00.123)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TITLES)
def test_title(case):
    """Number, time, verdict, flow, interfaces, who decided; what is unsure, related or changed."""
    more, expected = TITLES[case]
    one = packet(step(), **({"header": UDP} | more))
    shown = title.title(one, UTC)
    assert shown.startswith("#1 02:40:00.000 ")
    assert expected in shown
    # A line that stands alone tells no less.
    words = re.sub(" +", " ", title.brief(one, UTC)).split()
    assert set(shown.split()) <= set(words)


BRIEF = {
    "dropped": ({}, "--> #1 02:40:00.000 DROP   udp 10.0.0.1:1000 > 10.0.0.2:53 length 29 in eth0 by"),
    "rejected": ({"verdict": "REJECT"}, "--> #1 02:40:00.000 REJECT udp"),
    "accepted": ({"verdict": "ACCEPT"}, "    #1 02:40:00.000 ACCEPT udp"),
    "longer word": ({"verdict": "UNKNOWN"}, "    #1 02:40:00.000 UNKNOWN udp"),
    "flags": ({"header": SIX | {"flags": "SYN,ACK", "length": 60}}, "> [fd00::2]:2 SYN,ACK length 60 in"),
    "ping": (
        {"header": PING | {"name": "echo-request", "icmp_id": 7, "icmp_seq": 0}},
        " icmp a > b echo-request id 7 seq 0 in",
    ),
    "error": (
        {"header": PING | {"name": "time-exceeded", "inner": UDP}},
        " icmp a > b time-exceeded [udp 10.0.0.1:1000 > 10.0.0.2:53] in",
    ),
    "error of what nobody saw": (
        {"header": PING | {"name": "time-exceeded", "inner": {"src": None}}},
        " icmp a > b time-exceeded in",
    ),
    "fragment": ({"header": {"src": "a", "dst": "b", "proto": "udp", "frag": 1480}}, "udp a > b frag 1480 in"),
}  # fmt: skip


@pytest.mark.parametrize("case", BRIEF)
def test_brief(case):
    """What tcpdump tells in a line, beside the title; what was lost is marked without a colour."""
    more, expected = BRIEF[case]
    shown = title.brief(packet(step(), **({"header": UDP} | more)), UTC)
    assert expected in shown
    assert "\n" not in shown


def test_colour():
    """The verdict and the mark."""
    layout = replace(UTC, colour=True)
    assert title.brief(packet(step()), layout).startswith("\x1b[31m-->\x1b[0m #1 ")
    assert " \x1b[31mDROP\x1b[0m udp " in title.title(packet(step()), layout)
    assert "\n\x1b[31m-->\x1b[0m\tfilter INPUT\n" in show.as_text(packet(step()), layout)


def test_layout():
    """Header line, steps, rule, target; policies that let it go on in a line; a mark where it ended."""
    raw, mangle = (step(table=table, chain="PREROUTING", **POLICY) for table in ("raw", "mangle"))
    one = packet(raw, mangle, step(), header=UDP, link={"src": "a", "dst": "b", "type": "0x0800"})
    assert show.as_text(one, UTC) == (
        "#1 02:40:00.000 DROP udp 10.0.0.1:1000 > 10.0.0.2:53 in eth0 by filter/INPUT rule 2: -p udp -j DROP\n"
        "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=29 PROTO=UDP SPT=1000 DPT=53\n"
        "\traw PREROUTING, mangle PREROUTING DEFAULT POLICY => ACCEPT\n"
        "-->\tfilter INPUT\n"
        "\t\tMATCH RULE (#2): -p udp -j DROP\n"
        "\t\t=> DROP\n"
    )


ACCEPTED = {"verdict": "ACCEPT", "decided_by": RulePlace("filter", "INPUT", None)}
LINES = {  # steps, what else the packet has, the layout; the lines below the header's
    "a policy that decided": (
        [step(table="raw", **POLICY), step(**POLICY)], ACCEPTED, UTC,
        ["\traw INPUT DEFAULT POLICY => ACCEPT", "\tfilter INPUT", "\t\tDEFAULT POLICY", "\t\t=> ACCEPT"],
    ),
    "policies behind the one that decided": (
        [step(**POLICY), step(table="nat", **POLICY), step(table="x", **POLICY)], ACCEPTED, UTC,
        ["\tfilter INPUT", "\t\tDEFAULT POLICY", "\t\t=> ACCEPT",
         "\tnat INPUT, x INPUT DEFAULT POLICY => ACCEPT"],
    ),
    "a policy with news": (
        [step(table="a", **POLICY), step(table="b", changed={"dst": ("x", "y")}, **POLICY), step(**POLICY)],
        ACCEPTED, UTC,
        ["\ta INPUT DEFAULT POLICY => ACCEPT", "\tb INPUT DST=y (was x) DEFAULT POLICY => ACCEPT",
         "\tfilter INPUT", "\t\tDEFAULT POLICY", "\t\t=> ACCEPT"],
    ),
    "a mark from the start": (
        [step(mark=5, table="a", target=None), step(mark=5)], {}, UTC,
        ["\ta INPUT NFMARK=0x5", "\t\tMATCH RULE (#2): -p udp -j DROP", "\t\t=> (goes on)",
         "-->\tfilter INPUT", "\t\tMATCH RULE (#2): -p udp -j DROP", "\t\t=> DROP"],
    ),
    "a mark of a step that is not shown": (
        [step(table="a", target=None), step(mark=5), step(mark=5, chain="x", target=None)],
        {}, replace(UTC, rules=False),
        ["\ta INPUT", "\t\tMATCH RULE (#2) /* no udp */", "\t\t=> (goes on)",
         "-->\tfilter INPUT NFMARK=0x5", "\t\tMATCH RULE (#2) /* no udp */", "\t\t=> DROP",
         "\tfilter x", "\t\tMATCH RULE (#2) /* no udp */", "\t\t=> (goes on)"],
    ),
    "a mark that goes": (
        [step(changed={"mark": (5, 0)})], {}, UTC,
        ["-->\tfilter INPUT NFMARK=0x0 (was 0x5)", "\t\tMATCH RULE (#2): -p udp -j DROP", "\t\t=> DROP"],
    ),
    "a checksum follows": (
        [step(changed={"ttl": (64, 63), "csum": (1, 2)})], {}, UTC,
        ["-->\tfilter INPUT TTL=63 (was 64)", "\t\tMATCH RULE (#2): -p udp -j DROP", "\t\t=> DROP"],
    ),
    "a checksum alone": (
        [step(changed={"csum": (1, 2), "in": (None, "eth0")})], {}, UTC,
        ["-->\tfilter INPUT IN=eth0 OUT= CSUM=0002 (was 0001)", "\t\tMATCH RULE (#2): -p udp -j DROP",
         "\t\t=> DROP"],
    ),
    "interfaces left out": (
        [step(changed={"in": (None, "eth0")})], {}, replace(UTC, iface_changes=False),
        ["-->\tfilter INPUT", "\t\tMATCH RULE (#2): -p udp -j DROP", "\t\t=> DROP"],
    ),
    "bridge ports": (
        [step(table="a", target=None), step()], {}, replace(UTC, phys=True, rules=False),
        ["\ta INPUT PHYSIN=eth0p PHYSOUT=", "\t\tMATCH RULE (#2) /* no udp */", "\t\t=> (goes on)",
         "-->\tfilter INPUT", "\t\tMATCH RULE (#2) /* no udp */", "\t\t=> DROP"],
    ),
    "no bridge ports": (
        [step(physin=None)], {}, replace(UTC, phys=True),
        ["-->\tfilter INPUT", "\t\tMATCH RULE (#2): -p udp -j DROP", "\t\t=> DROP"],
    ),
    "conntrack": (
        [step(table="a", target=None, ct=CtInfo(7, 1, 6, 2)), step(ct=CtInfo(7, 1, 6, 2))], {},
        replace(UTC, ct=True, rules=False),
        ["\ta INPUT CTID=7 CTDIR=reply CTSTATE=established CTSTATUS=seen-reply,assured",
         "\t\tMATCH RULE (#2) /* no udp */", "\t\t=> (goes on)",
         "-->\tfilter INPUT", "\t\tMATCH RULE (#2) /* no udp */", "\t\t=> DROP"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_only_what_is_new(case):
    """Each step tells what is not as it was."""
    steps, more, layout, expected = LINES[case]
    assert show.as_text(packet(*steps, **more), layout).splitlines()[2:] == expected


def test_the_connection_has_its_line():
    """Below the header's."""
    there, back = Flow(17, "10.0.0.1", "10.0.0.2", 1, 2), Flow(17, "10.0.0.2", "10.0.0.1", 2, 1)
    connection = Connection(1, there, back, status=0, mark=0, zone=0, gone=False)
    shown = show.as_text(packet(step(), connection=connection), UTC).splitlines()
    assert shown[2].startswith("CONNTRACK ID=1 ")


def test_the_title_knows_the_rule_of_a_step_that_is_not_shown():
    """--chain limits steps, not what is known."""
    shown = show.as_text(packet(step()), UTC, steps=()).splitlines()
    assert shown[0].endswith("rule 2: -p udp -j DROP")
    assert len(shown) == 2


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_nothing_is_lost(path):
    """Fewer lines than before, with every chain, rule and target; with --verbose every word."""
    with iptrec.open(path) as recording:
        packets = list(recording.packets())
    classic, quiet, verbose = [], [], []
    for one in packets:
        classic += text.render(one, text.Layout(phys=True, ct=True)).splitlines()
        quiet += show.as_text(one, UTC).splitlines()
        layout = text.Layout(phys=True, ct=True, verbose=True, clock=Clock(utc=True, exact=True))
        verbose += show.as_text(one, layout).splitlines()
    assert len(quiet) < len(classic) == len(verbose)
    assert len("\n".join(quiet)) < len("\n".join(classic))
    rules = [line for line in classic if "MATCH RULE" in line or "=> " in line[2:5]]
    folded = "\n".join(quiet)
    assert [line for line in rules if line not in quiet and line.strip() not in folded] == []
    titles = [line for line in classic if line.startswith("#")]
    told = (re.sub(r" UID=\d+ GID=\d+$", "", line) for line in verbose)  # classic tells it nowhere
    assert [line for line in told if not line.startswith("#")] == [
        line for line in classic if line not in titles
    ]
    for old, new in zip(titles, (line for line in verbose if line.startswith("#")), strict=True):
        number, time, _, *rest = old.split()
        assert new.split()[:2] == [number, time.partition("T")[2].removesuffix("Z")]
        assert {*rest} <= {*new.split(), *(word.removesuffix(":") for word in new.split())}


@pytest.mark.parametrize(
    "evil", ["\x1b[2J", "\x07", "\u202e", "\n#9 fake", "\x9b1m", "\ud800", "\r", "\U000e0041"]
)
def test_nothing_from_the_file_reaches_the_terminal_raw(evil):
    """As of --classic."""
    one = step(
        spec=f"a{evil}", chain=evil, table=evil, target=f"T{evil}", target_args=evil, comment=evil,
        in_=evil, out=evil, physin=evil, changed={"in": (None, evil), "dst": (evil, evil)},
    )  # fmt: skip
    inner = {"src": evil, "dst": evil, "proto": evil}
    hostile = packet(
        one, in_=evil, out=evil, netns=evil, reason=evil, verdict=f"V{evil}", complete=False,
        decided_by=RulePlace(evil, evil, 2), altered_by=Change("inserted", evil, evil, 2, evil, 1),
        header={"src": evil, "dst": evil, "proto": evil, "flags": evil, "name": evil, "inner": inner},
    )  # fmt: skip
    for layout in (text.Layout(phys=True), text.Layout(rules=False), text.Layout(verbose=True)):
        shown = show.as_text(hostile, layout)
        assert evil not in shown
        assert len(shown.splitlines()) == 5
        assert evil not in title.brief(hostile, layout)
        assert title.brief(hostile, layout).isprintable()
