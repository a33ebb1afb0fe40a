"""nf_tables tells nothing of a packet that a rule took away: it is the one that it told of before.

Of legacy iptables SYNPROXY alone takes packets away: what it was given and nobody saw again it took.
"""

from __future__ import annotations

import json

import pytest
import test_nft
from test_traffic import Net, send, way

pytestmark = test_nft.pytestmark

PASSED = "raw/PREROUTING:p inet q/pre:1 inet q/pre:p"
# Connection tracking must not take up what begins in the middle: SYNPROXY's conditions.
TABLES = """table inet q {{
    chain pre {{
        type filter hook prerouting priority -299
        tcp flags syn notrack
        meta l4proto udp meta mark set 7
    }}
    chain post {{
        type filter hook postrouting priority 0
    }}
}}
{}
"""
EGRESS_RULES = """table netdev n {
    chain egr {
        type filter hook egress device "v2" priority 0
        udp dport 1000 counter fwd to "v3"
    }
}"""
SYNPROXY_RULES = """table inet s {
    chain in {
        type filter hook input priority 0
        tcp dport 80 ct state { invalid, untracked } counter synproxy mss 1460 wscale 7 timestamp sack-perm
    }
}"""
IPTABLES_RULES = (
    "*filter\n-A INPUT -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED"
    " -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460\nCOMMIT\n"
)
CONNECT = """
out = socket.socket()
out.settimeout(0.5)
try: out.connect(("10.0.1.1", 80))
except OSError: pass
"""
CASES = {  # rules of nft and of iptables-nft, what is sent, where it is taken away, and how often
    "fwd": (
        EGRESS_RULES, "", send("10.0.2.2", 1000, count=3) + send("10.0.2.2", 1001),
        f"{PASSED.replace(':1', ':2')} inet q/post:p netdev n/egr:1", 3,
    ),
    "synproxy": (SYNPROXY_RULES, "", CONNECT, f"{PASSED} inet s/in:1", 1),
    "iptables": ("", IPTABLES_RULES, CONNECT, f"{PASSED} filter/INPUT:1", 1),
}  # fmt: skip


@pytest.fixture
def net(lab, tmp_path):
    one = Net(lab, tmp_path)
    one.hosts(1, 2, 3)
    lab.sysctl(None, "net/netfilter/nf_conntrack_tcp_loose", 0)
    return one


def counters(lab):
    """How many packets the rules with a counter met."""
    listed = json.loads(lab.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
    rules = [one["rule"]["expr"] for one in listed if "rule" in one]
    return sum(each["counter"]["packets"] for rule in rules for each in rule if "counter" in each)


@pytest.mark.parametrize("case", CASES)
def test_what_a_rule_took_away_is_one_packet(net, case):
    """As many as the rule counted, each whole from its beginning, with addresses, ports and mark."""
    tables, iptables, script, expected, sent = CASES[case]
    net.lab.run(["nft", "-f", "-"], stdin=TABLES.format(tables))
    if iptables:
        net.lab.restore(None, "ipv4", iptables, "nft")
    net.record("udp or tcp", script, host="h1", options=("--backend", "nft"))
    stolen = [one for one in net.packets if one.verdict == "STOLEN"]
    assert len(stolen) == counters(net.lab) >= sent
    assert net.certain()
    assert {one.in_ for one in stolen} == {"v1"}
    assert way(stolen[0]) == expected
    assert {one.header["src"] for one in stolen} == {"10.0.1.2"}
    for packet in stolen:
        last = packet.steps[-1]
        assert last.header["dport"] == (1000 if case == "fwd" else 80)
        assert (last.mark, "mark" in last.changed) == (7 if case == "fwd" else 0, False)


LEGACY_RULES = f"*raw\n-A PREROUTING -p tcp --syn -j CT --notrack\nCOMMIT\n{IPTABLES_RULES}"
BESIDE = """table inet q {
    chain before {
        type filter hook input priority -10
        tcp dport 80 counter
    }
    chain behind {
        type filter hook input priority 10
        tcp dport 80 counter
    }
}
"""
FORGED = """
import struct
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
ends = socket.inet_aton("10.0.1.2") + socket.inet_aton("10.0.1.1")
head = struct.pack("!HHIIBBHHH", 1000, 80, 7, 7, 0x50, 0x10, 512, 0, 0)
summed = checksum(ends + struct.pack("!HH", 6, 20) + head)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.sendto(head[:16] + struct.pack("!H", summed) + head[18:], ("10.0.1.1", 0))
"""


def synproxy(lab):
    """What SYNPROXY has counted, by its name for it."""
    heads, *lines = lab.run(["cat", "/proc/net/stat/synproxy"]).stdout.splitlines()
    rows = [[int(one, 16) for one in line.split()] for line in lines]
    return dict(zip(heads.split(), map(sum, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("backends", ["legacy", "both"])
@pytest.mark.parametrize("forged", [False, True])
def test_what_synproxy_of_legacy_iptables_took(net, forged, backends):
    """SYN and ACK are taken; where it did not believe an ACK nobody can tell which one it dropped."""
    net.lab.restore(None, "ipv4", LEGACY_RULES)
    if backends == "both":
        net.lab.run(["nft", "-f", "-"], stdin=BESIDE)
    before = synproxy(net.lab)
    script = CONNECT + (FORGED if forged else "")
    net.record("tcp", script, host="h1", options=("--backend", backends))
    counted = {name: count - before[name] for name, count in synproxy(net.lab).items()}
    taken = counted["syn_received"] + counted["cookie_valid"]
    assert (counted["syn_received"], counted["cookie_invalid"]) == (1, forged)
    stolen = [one for one in net.packets if one.verdict == "STOLEN"]
    assert len(stolen) == taken + forged
    assert all(one.complete for one in stolen)
    table = "filter" if backends == "legacy" else "legacy filter"
    deciders = {(one.decided_by.table, one.decided_by.chain, one.decided_by.rule) for one in stolen}
    assert deciders == {(table, "INPUT", 1)}
    assert {(one.steps[-1].table, one.steps[-1].target) for one in stolen} == {(table, "SYNPROXY")}
    if backends == "both":
        ways = [[step.chain for step in one.steps if step.table == "inet q"] for one in stolen]
        assert all("before" in one and "behind" not in one for one in ways)
    said = "SYNPROXY dropped an ACK meanwhile (cookie_invalid), perhaps this one"
    assert {(one.ambiguous, one.reason) for one in stolen} == {(forged, said if forged else None)}
