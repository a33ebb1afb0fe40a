"""A rule of nf_tables that switches tracing off ends the trace, and iptrec says which one it was."""

from __future__ import annotations

import json
import re
import sys

import frames
import pytest
import recorder
import test_nft
from test_traffic import Net, send, way

pytestmark = test_nft.pytestmark

RULES = """table inet q {
    chain pre {
        type filter hook prerouting priority 0
        udp dport 1001 counter meta nftrace set 0
        meta nfproto ipv4 counter log prefix "meta nftrace set 0 "
    }
    chain forw {
        type filter hook forward priority 0
        udp dport 1002 jump sub
        udp dport 1003 counter
        udp dport { 1003, 1004 } counter meta nftrace set 0
        udp dport 1005 drop
    }
    chain sub {
        counter
        counter meta nftrace set 0
        counter
    }
    chain post {
        type filter hook postrouting priority 0
    }
}"""
MET = "raw/PREROUTING:p inet q/pre:2 inet q/pre:p"
OFF = "tracing was switched off by {} (`meta nftrace set 0`)"
LATER = OFF.format("inet q/forw rule 3")
ELSE = "the kernel dropped or consumed it outside of the rules (routing, rp_filter, TTL, socket)"
LOST = ", or the events were lost"
# By port: verdict, way, reason.
EXPECTED = {
    1000: ("ACCEPT", f"{MET} inet q/forw:p inet q/post:p", None),
    1001: (
        "UNKNOWN", "raw/PREROUTING:p",
        f"not seen after raw PREROUTING: {OFF.format('inet q/pre rule 1')}, or {ELSE}",
    ),
    1002: ("UNKNOWN", f"{MET} inet q/forw:1 inet q/sub:1", OFF.format("inet q/sub rule 2")),
    1003: (
        "UNKNOWN", f"{MET} inet q/forw:2",
        f"the trace breaks off after inet q/forw rule 2: {LATER}{LOST}",
    ),
    1004: ("UNKNOWN", MET, f"not seen after inet q PREROUTING: {LATER}, or {ELSE}"),
    1005: ("DROP", f"{MET} inet q/forw:4", None),
}  # fmt: skip


@pytest.fixture
def net(lab, tmp_path):
    one = Net(lab, tmp_path)
    one.hosts(1, 2)
    return one


def switched_off(lab):
    """How many packets each rule that switches tracing off counted, by chain and number."""
    listed = json.loads(lab.run(["nft", "-j", "list", "table", "inet", "q"]).stdout)["nftables"]
    found, numbers = {}, {}
    for rule in (one["rule"] for one in listed if "rule" in one):
        numbers[rule["chain"]] = number = numbers.get(rule["chain"], 0) + 1
        if any("nftrace" in json.dumps(each) and "mangle" in each for each in rule["expr"]):
            counter = next(each["counter"] for each in rule["expr"] if "counter" in each)
            found[f"inet q/{rule['chain']} rule {number}"] = counter["packets"]
    return found


def test_which_rule_switched_tracing_off(net):
    """It is named as often as it counted, and no rule that it cannot have been."""
    net.lab.run(["nft", "-f", "-"], stdin=RULES)
    script = "".join(send("10.0.2.2", port, count=3) for port in EXPECTED)
    net.record("udp", script, host="h1", options=("--backend", "nft"))
    told = {}
    for packet in net.packets:
        port = packet.header["dport"]
        assert (packet.verdict, way(packet), packet.reason) == EXPECTED[port], port
        if named := re.search(r"switched off by (.+) \(`", packet.reason or ""):
            told[named[1]] = told.get(named[1], 0) + 1
    assert len(net.packets) == 3 * len(EXPECTED)
    assert told == switched_off(net.lab)


EQUAL = """\
table inet {name} {{
	chain c {{
		type filter hook input priority 0
		{rules}
	}}
}}
"""


@pytest.mark.parametrize("newer", ["off", "other"])
def test_a_chain_of_equal_priority(lab, tmp_path, newer):
    """Which of two is passed first nobody knows: one that was not seen may have dropped the packet unseen."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.settle()
    tables = {
        "off": "udp dport 5000 meta nftrace set 0\n\t\tudp dport 5000 drop",
        "other": "counter",
    }
    for name in sorted(tables, key=lambda name: name == newer):
        lab.run(["nft", "-f", "-"], stdin=EQUAL.format(name=name, rules=tables[name]))
    path, sent = tmp_path / "t.db", tmp_path / "frames.json"
    words = ["--backend", "nft", "--family", "ipv4", "--iface", "v1", "-o", path]
    child = recorder.start(lab, "udp", *words)
    ends = frames.mac(lab, None, "v1"), frames.mac(lab, "h", "eth0")
    sent.write_text(json.dumps(frames.framed([frames.ipv4(*frames.udp(9, 5000))], *ends)))
    lab.run([sys.executable, "-c", frames.SEND, str(sent)], "h")
    recorder.stop(child)
    (one,) = recorder.packets(path)
    assert one.verdict != "ACCEPT" or one.ambiguous
    assert "inet off/c rule 1 (`meta nftrace set 0`)" in one.reason
