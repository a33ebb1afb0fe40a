"""Rules that come and go before anybody could list them have the text that nft and iptables give them."""

from __future__ import annotations

import re
import shutil
import sys

import changing
import pytest
from recorder import start, stop

from iptrec.recording.reader import Reader
from iptrec.rulesets.backends import history
from iptrec.rulesets.nft import NFT

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]

TABLE = """\
table inet fw {
    set ports { type inet_service; flags interval; elements = { 1000-1003, 1005 }; }
    map fates { type inet_service : verdict; elements = { 7 : jump other }; }
    set seen { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 100; }
    counter c1 { }
    quota q1 { over 10 mbytes }
    limit l1 { rate 10/second }
    chain other { }
    chain some { }
    chain in { type filter hook input priority 0; }
}
"""
STATEMENTS = (
    'udp dport 5 counter name "c1" comment "five"',
    "udp dport @ports accept",
    "udp dport { 4, 5 } drop",
    "udp dport { 1-3, 7 } ct mark set meta mark",
    "udp dport vmap { 4 : jump other, 5 : drop }",
    "udp dport vmap @fates",
    "udp sport 3-9 ip dscp set cs1",
    "meta mark set udp dport map { 1 : 0x2, 3 : 0x4 }",
    "goto other",
    'quota name "q1" drop',
    'limit name "l1" accept',
    "limit rate 5/second accept",
    "add @seen { ip saddr timeout 3s }",
    "update @seen { ip saddr limit rate 3/second } accept",
    "ct state established,new accept",
    "reject with tcp reset",
    'log prefix "x" level debug',
    "ip saddr . udp dport { 1.2.3.4 . 5, 1.2.3.5 . 6 } accept",
    "ip saddr { 10.0.0.0/8, 11.0.0.0/16 } counter",
    "fib daddr type local accept",
    'iifname { "a", "b*" } accept',
    "tcp flags syn / syn,ack accept",
    "numgen inc mod 2 vmap { 0 : accept, 1 : drop }",
    "tcp option maxseg size set 1400",
)
RULES = (
    "-p udp -m udp --dport 1004 -m comment --comment x -j MARK --set-xmark 0x3/0xffffffff",
    "-p tcp -m multiport --dports 22,80:90 -m conntrack --ctstate NEW -j ACCEPT",
    "-s 10.0.0.0/8 -m limit --limit 5/sec -j LOG --log-prefix hey",
    "-p icmp -m icmp --icmp-type 8 -m length --length 1:100 -j DROP",
    "! -i lo -m mark --mark 0x1/0xff -j other",
    "-m addrtype --dst-type LOCAL -g other",
)


APART = """\
import os
from pathlib import Path
from iptrec.kernel import privileges
from iptrec.libc import libc
back = os.open("/proc/self/ns/net", os.O_RDONLY)
outside = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "user")]
privileges.apart(privileges.NET_ADMIN)
inside = [os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("net", "user")]
said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(*(one != other for one, other in zip(outside, inside)), int(said["CapEff"], 16) == 1 << 12)
print(libc.setns(back, 0))
"""


def specs(path, table):
    """The text of each rule that a table had at any time."""
    with Reader(path) as reader:
        timeline = history(reader, NFT, 1).table("ipv4", table)
    return {
        rule.spec
        for state in timeline.states
        for chain in (state.chains or {}).values()
        for rule in chain.rules
    }


def recorded(lab, path, changes):
    """Record while the rules change, without a pause."""
    child = start(lab, "icmp", "-o", path, "--backend", "nft")
    changes()
    said = stop(child)
    if changing.SLOW and "have no text" in said:
        pytest.skip(said.strip())
    assert "have no text" not in said


def test_rules_of_nft(lab, tmp_path):
    """Each kind of statement; sets, maps and objects, with a name and without one."""
    lab.run(["nft", "-f", "-"], stdin=TABLE)
    listed = set()

    def changes():
        for one in STATEMENTS:
            lab.run(["nft", "-f", "-"], stdin=f"add rule inet fw some {one}\n")
            printed = lab.run(["nft", "-a", "-s", "list", "chain", "inet", "fw", "some"]).stdout
            listed.update(re.findall(r"^\t\t(.*) # handle \d+$", printed, re.MULTILINE))
            lab.run(["nft", "flush", "chain", "inet", "fw", "some"])

    recorded(lab, tmp_path / "t.db", changes)
    assert len(listed) == len(STATEMENTS)
    assert specs(tmp_path / "t.db", "inet fw") == listed


def test_rules_of_iptables(lab, tmp_path):
    """In the words of iptables."""
    lab.run(["iptables-nft", "-N", "other"])

    def changes():
        for one in RULES:
            lab.run(["iptables-nft", "-A", "INPUT", *one.split()])
            lab.run(["iptables-nft", "-F", "INPUT"])

    recorded(lab, tmp_path / "t.db", changes)
    assert specs(tmp_path / "t.db", "filter") == set(RULES)


def test_it_has_no_right_outside(lab):
    """Where they are listed is another network, of other users, with one right there; nobody comes back."""
    assert lab.run([sys.executable, "-c", APART]).stdout.split() == ["True"] * 3 + ["-1"]
