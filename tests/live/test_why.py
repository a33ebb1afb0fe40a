"""`iptrec why`: what it says of a rule is what the kernel's counter of that rule says."""

from __future__ import annotations

import re
import sys
from collections import Counter

import pytest
from command import IPTREC
from judged import last_facts

from iptrec.decode.rulesets import iptables_save
from iptrec.matching import judge

pytestmark = pytest.mark.live

MATCHES = """\
-p tcp
-p udp
! -p udp
-p icmp
-p 17
-s 10.0.1.2
-s 10.0.1.0/24
! -s 10.0.1.0/24
-s 10.0.0.0/255.0.255.0
-d 10.0.1.1
-d 10.0.2.0/24
! -d 10.0.1.1
-i v1
-i v+
-i v2
! -i v1
-f
! -f
-p udp --dport 5000
-p udp --dport 5001
-p udp ! --dport 5000
-p udp --dport 4000:5000
-p udp --sport 1024:
-p udp --sport :1023
-p tcp --dport 80
-p tcp --syn
-p tcp ! --syn
-p tcp --tcp-flags ALL SYN
-p tcp --tcp-flags SYN,ACK SYN,ACK
-p tcp --tcp-flags RST NONE
-p udp -m multiport --dports 53,5000,6000:6010
-p udp -m multiport --sports 1:1023
-p udp -m multiport ! --dports 53
-p tcp -m multiport --ports 80,443
-p icmp --icmp-type echo-request
-p icmp --icmp-type 8/0
-p icmp ! --icmp-type 8
-p icmp --icmp-type any
-p icmp --icmp-type 3/3
-m iprange --src-range 10.0.1.1-10.0.1.9
-m iprange --dst-range 10.0.1.2-10.0.1.9
-m iprange ! --src-range 10.0.1.3-10.0.1.4
-m mark --mark 0x0
-m mark --mark 0x4/0x4
-m mark ! --mark 0x4/0x4
-m connmark --mark 0x0
-m connmark ! --mark 0x0
-m connmark --mark 0x6
-m connmark --mark 0x5
-m mark --mark 0x0 -m connmark --mark 0x5
-m connmark --mark 0x5 -m mark --mark 0x1
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type LOCAL
-m addrtype --src-type LOCAL
-m addrtype --dst-type MULTICAST
-m addrtype --dst-type LOCAL,MULTICAST
-m addrtype --dst-type LOCAL --limit-iface-in
-m addrtype ! --dst-type LOCAL --limit-iface-in
-m length --length 100
-m length --length 29:60
-m length ! --length 0:20
-m ttl --ttl-eq 64
-m ttl --ttl-lt 64
-m ttl --ttl-gt 1
-m comment --comment "just so -j DROP"
-p udp -s 10.0.1.2 -i v1 -m udp --dport 5000
-p udp -s 10.0.1.3 -i v1 -m udp --dport 5000
-m statistic --mode nth --every 2 --packet 0
-m limit --limit 1/hour --limit-burst 1
-m state --state NEW
-m recent --name x --rcheck
-m set --match-set good src
-m set --match-set bad src
-m set ! --match-set bad src
-m set --match-set nets dst
-m set --match-set pairs src,dst
""".splitlines()
PACKETS = {
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.0.1.1', 5000))",
    "long_udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 72, ('10.0.1.1', 53))",
    "tcp": "s = socket.socket(); s.settimeout(0.2); s.connect_ex(('10.0.1.1', 80))",
    "icmp": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP);"
        "s.sendto(bytes.fromhex('0800f7ff00000000'), ('10.0.1.1', 0))"
    ),
}
SETS = """
from pyroute2 import IPSet
with IPSet() as sets:
    for name in ("good", "bad"):
        sets.create(name)
    sets.add("good", "10.0.1.2")
    sets.add("bad", "10.0.1.3")
    sets.create("nets", stype="hash:net")
    sets.add("nets", "10.0.0.0/16", etype="net")
    sets.create("pairs", stype="hash:ip,port")
"""
UNKNOWABLE = ("statistic", "limit", "state", "conntrack", "recent", "connmark", "--match-set")


@pytest.fixture
def host(lab, backend):
    """A host behind the lab's interface v1, some of whose addresses are another interface's."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.settle()
    made = lab.run([sys.executable, "-c", SETS], check=False)
    if made.returncode:
        pytest.skip(f"no ipset here: {made.stderr.splitlines()[-1]}")
    rules = "".join(f"-A INPUT {match}\n" for match in MATCHES)
    lab.restore(
        None,
        "ipv4",
        "*mangle\n-A PREROUTING -p tcp -j MARK --set-mark 6\n"
        f"-A PREROUTING -j CONNMARK --set-mark 5\nCOMMIT\n*filter\n{rules}COMMIT\n",
        backend,
    )
    return lab


def counters(saved):
    """The packets that each rule of INPUT counted, in order."""
    return [int(found) for found in re.findall(r"^\[(\d+):\d+\] -A INPUT ", saved, re.MULTILINE)]


@pytest.mark.parametrize("packet", PACKETS)
def test_judgements_are_the_kernels(host, tmp_path, packet, backend):
    """Rule by rule: yes or no as the counter says, or it depends on what only the kernel knew."""
    path = tmp_path / "t.db"
    script = f"import socket\n{PACKETS[packet]}"
    enter = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", script]
    before = counters(host.run([f"iptables-{backend}-save", "-c", "-t", "filter"]).stdout)
    host.run(
        [
            *IPTREC,
            "record",
            "-q",
            "-o",
            str(path),
            "--iface",
            "v1",
            "--family",
            "ipv4",
            "--backend",
            backend,
            "--",
            *enter,
        ]
    )
    saved = host.run([f"iptables-{backend}-save", "-c", "-t", "filter"]).stdout
    matched = [after - once for once, after in zip(before, counters(saved), strict=True)]
    rules = iptables_save.parse(saved.encode()).tables["filter"]["INPUT"].rules
    ((facts, explained),) = last_facts(path, ("filter", "INPUT"), "v1")
    said = Counter()
    for rule, count in zip(rules, matched, strict=True):
        judgement = judge(rule, facts)
        said[judgement.fits] += 1
        if judgement.fits is None:
            assert any(word in rule.spec for word in UNKNOWABLE), (rule.spec, judgement)
        else:
            assert judgement.fits == bool(count), (rule.spec, judgement, count)
    assert said[True] >= 15
    assert said[False] >= 15
    # And the rules that the trace passed over are those that did not count.
    passed = {one.number for step in explained.steps for one in step.passed}
    steps = {step.rule for step in explained.packet.steps if step.chain == "INPUT" and step.rule}
    assert steps == {number for number, count in enumerate(matched, 1) if count}
    assert {number for number, count in enumerate(matched, 1) if not count} <= passed | steps
