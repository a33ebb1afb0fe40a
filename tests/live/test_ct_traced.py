"""What nf_tables' trace tells of conntrack is what rules that ask for it count, and what ctnetlink tells."""

from __future__ import annotations

import sys

import pytest
import sides
import test_nft
from command import IPTREC
from rights import since

from iptrec.answers.packets import Packets
from iptrec.decode.conntrack import DIRECTIONS, STATES, STATUS
from iptrec.recording.reader import Reader
from iptrec.views import packet_json
from iptrec.views.json_lines import text

pytestmark = [*test_nft.pytestmark, since(6, 16, "nf_tables' trace tells of conntrack")]

ASKED = {  # condition of a rule that counts -> whether a step's CtInfo says so
    **{
        f"ct state {name}": (lambda ct, bit=bit: ct is not None and ct.state == bit)
        for name, bit in STATES.items()
        if name != "invalid"
    },
    "ct state invalid": lambda ct: ct is None,
    **{
        f"ct direction {name}": (lambda ct, one=one: ct is not None and ct.direction == one)
        for name, one in DIRECTIONS.items()
    },
    **{
        f"ct status & {name} == {name}": (
            lambda ct, bit=bit: ct is not None and bool((ct.status or 0) & bit)
        )
        for name, bit in STATUS.items()
    },
}
RULES = """\
table inet fw {{
	chain raw {{ type filter hook prerouting priority raw + 1; udp dport 58 notrack; }}
	chain to {{ type nat hook prerouting priority dstnat; udp dport 5000 dnat ip to 10.0.2.2:6000; }}
	chain from {{ type nat hook postrouting priority srcnat; ip saddr 10.0.1.2 masquerade; }}
	chain asked {{
		type filter hook forward priority filter
		{}
	}}
}}
"""
TALK = """\
import socket
for port in range(4000, 4006):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("", port)); out.settimeout(5)
        for count in range(3):
            out.sendto(b"same", ("10.0.1.1", 5000)); out.recv(99)
        out.sendto(b"none", ("10.0.2.2", 58))
        out.sendto(b"unreachable", ("10.0.2.2", 59))
"""


@pytest.fixture
def talking(lab):
    """The lab with hosts, rules that ask, and somebody who answers."""
    sides.join(lab, "h1", "h2", peer="v{net}")
    lab.settle()
    lab.run(["nft", RULES.format("\n\t\t".join(f"{one} counter" for one in ASKED))])
    with sides.echo(lab, "h2"):
        yield lab


def record(lab, path, *options):
    """A recording of what TALK says."""
    enter = ["nsenter", "--net=/run/netns/h1", sys.executable, "-c", TALK]
    lab.run(
        [*IPTREC, "record", "-q", "--backend", "nft", *options, "-o", str(path), "ip", "--", *enter]
    )
    return path


def test_what_rules_count(talking, tmp_path):
    """State, direction and status, of each packet where a chain asks for them."""
    with Reader(record(talking, tmp_path / "t.db")) as reader:
        passed = [
            next(one.ct for one in packet.steps if one.chain == "asked")
            for packet in Packets(reader)
        ]
    assert len(passed) == 6 * (
        3 + 3 + 2 + 2
    )  # to and fro, not tracked, nobody there; errors of two
    lines = talking.run(["nft", "list", "chain", "inet", "fw", "asked"]).stdout.splitlines()
    counted = [int(one.split("packets ")[1].split()[0]) for one in lines if "packets" in one]
    found = [sum(holds(ct) for ct in passed) for holds in ASKED.values()]
    assert dict(zip(ASKED, found, strict=True)) == dict(zip(ASKED, counted, strict=True))
    assert {one for one, count in zip(ASKED, found, strict=True) if not count} == {
        "ct status & expected == expected", "ct status & assured == assured",
        "ct status & dying == dying",
    }  # fmt: skip


def test_whose_connection_it_is(talking, tmp_path):
    """Its id is that of ctnetlink, of errors about it, too; its direction is where the packet came from."""
    with Reader(record(talking, tmp_path / "t.db", "--conntrack")) as reader:
        packets = [one for one in Packets(reader) if one.connection is not None]
    assert len(packets) == 6 * (3 + 3 + 1 + 1)
    for packet in packets:
        direction = "original" if packet.in_ == "v1" else "reply"  # h1 begins all
        known = [one.ct for one in packet.steps if one.ct is not None]
        assert {one.id for one in known} == {packet.connection.id}
        assert {one.direction for one in known} == {DIRECTIONS[direction]}


def test_lines_are_filled_with_it(talking, tmp_path):
    """Packets that read the same but for their connections are made of one; all have their own id."""
    path = record(talking, tmp_path / "t.db")
    lines, expected, shapes = [], [], []
    with Reader(path) as reader:
        for batch in Packets(reader).batches():
            lines += "".join(text(batch)).splitlines()
            expected += [packet_json.line(batch.traversal(at)) for at in batch.positions.tolist()]
            shapes += batch.shapes()
    assert lines == expected
    assert any(
        len({*step.ct_id}) > 1 for one in shapes for step in one.steps if step.ct_id is not None
    )
