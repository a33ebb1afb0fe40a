"""Flow tables: what a connection sends after its first packets passes no chain, and nobody tells of it."""

from __future__ import annotations

import sys

import pytest
import sides
import test_nft
from command import IPTREC, iptrec
from recorder import packets

pytestmark = test_nft.pytestmark
RULES = """\
table inet fw {
	flowtable fast { hook ingress priority 0; devices = { v1, v2 }; }
	chain forwarded {
		type filter hook forward priority 0;
		ct state established flow add @fast
		counter
	}
}
"""
ECHOES = 10
TALK = f"""\
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    out.bind(("", 4000))
    out.settimeout(20)
    for count in range({ECHOES}):
        out.sendto(b"%d" % count, ("10.0.2.2", 6000))
        assert out.recv(99) == b"%d" % count
"""


@pytest.fixture
def router(lab):
    """Two hosts, and flow tables between them."""
    sides.join(lab, "h1", "h2", peer="v{net}")
    lab.settle()
    if "No such file" in (said := lab.run(["nft", RULES], check=False).stderr):
        pytest.skip("this kernel has no flow tables")
    assert said == ""
    return lab


def test_what_a_flow_table_takes_is_seen_up_to_that(router, tmp_path):
    """The rule that hands a connection over is a step as all are, and what comes later is no loss."""
    path = tmp_path / "t.db"
    talk = ["nsenter", "--net=/run/netns/h1", sys.executable, "-c", TALK]
    command = [*IPTREC, "record", "-q", "--backend", "nft", "-o", str(path), "udp", "--", *talk]
    with sides.echo(router, "h2"):
        router.run(command)
    first, answer, *rest = [one for one in packets(path) if 6000 in ports(one)]
    assert [step.rule for step in first.steps if step.chain == "forwarded"] == [2, None]
    assert [step.rule for step in answer.steps if step.chain == "forwarded"] == [1, 2, None]
    assert "flow add @fast" in answer.steps[-3].spec
    assert len(rest) < 2 * ECHOES - 2
    assert {one.verdict for one in (first, answer, *rest)} == {"ACCEPT"}
    assert "lost" not in iptrec("show", str(path)).stdout


def ports(packet):
    return packet.header.get("sport"), packet.header.get("dport")
