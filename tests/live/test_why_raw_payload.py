"""`iptrec why` of raw payload (@nh, @th) behind conditions of protocols that nft may not print: none is false.

Every condition stands in front of every raw one, in tables of each family; the rules' counters are the truth.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims
from test_why_random import counted_by_nft

pytestmark = pytest.mark.live
PROTOCOLS = (
    "", "meta protocol ip", "meta protocol ip6", "meta protocol { ip, ip6 }", "meta protocol != ip",
    "meta nfproto ipv4", "meta nfproto ipv6", "meta nfproto != ipv6", "meta l4proto udp", "meta l4proto tcp",
    "meta l4proto { tcp, udp }", "meta l4proto != tcp", "meta protocol ip meta l4proto udp",
    "meta protocol ip6 meta l4proto tcp", "ip protocol udp", "ip6 nexthdr udp", "ip protocol != udp",
    "meta iiftype ether", "meta mark 0",
)  # fmt: skip
RAW = (
    "@nh,0,4 4", "@nh,0,4 6", "@nh,72,8 17", "@nh,64,8 64", "@nh,48,8 17", "@nh,56,8 64",
    "@nh,96,32 0x0a000102",
    "@nh,64,128 0xfd000001000000000000000000000002", "@nh,72,8 != 6", "@nh,8,8 0", "@nh,0,8 & 0xf0 == 0x40",
    "@th,0,16 9", "@th,16,16 5000", "@th,16,16 { 53, 80, 5000 }", "@th,16,16 != 80", "@th,104,8 2", "@th,0,8 8",
    "@th,16,16 4000-6000", "@nh,128,32 0x0a000101", "@ll,96,16 0x0800",
)  # fmt: skip
FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6), "netdev": (4, 6)}
SENT = {
    4: ("udp", "syn", "ack", "echo", "options"),
    6: ("udp", "syn", "hop", "dst"),
}
NOT_THERE = {"ip": ("ip6 nexthdr",), "ip6": ("ip protocol",)}


def rules(family):
    for protocol in PROTOCOLS:
        if not protocol.startswith(NOT_THERE.get(family, ("-",))):
            for raw in RAW:
                yield f"{protocol} {raw} counter"


@pytest.fixture
def host(lab):
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.ip(None, "address add fd00:1::1/64 dev v1 nodad")
    lab.settle()
    return lab


def load(host, lines, family):
    """All rules but those that nft refuses, such as of IPv6 in a table of IPv4."""
    taken = [*lines, *(f"add rule {family} fw judged {one}" for one in rules(family))]
    while True:
        found = host.run(["nft", "-f", "-"], stdin="\n".join(taken) + "\n", check=False)
        if found.returncode == 0:
            return
        refused = {int(one) - 1 for one in re.findall(r"/dev/stdin:(\d+):", found.stderr)}
        assert refused, found.stderr
        taken = [line for number, line in enumerate(taken) if number not in refused]


@pytest.mark.parametrize("family", FAMILIES)
def test_judgements_are_the_kernels(host, tmp_path, family):
    hook = 'ingress device "v1" priority 0' if family == "netdev" else "prerouting priority mangle"
    head = f"{{ type filter hook {hook}; policy accept; }}"
    load(host, [f"add table {family} fw", f"add chain {family} fw judged {head}"], family)
    ends = frames.mac(host, None, "v1"), frames.mac(host, "h", "eth0")
    packets = {4: frames.IPV4, 6: frames.IPV6}
    sent = tmp_path / "frames.json"
    chosen = [packets[version][one] for version in FAMILIES[family] for one in SENT[version]]
    sent.write_text(json.dumps(frames.framed(chosen, *ends)))
    path = tmp_path / "t.db"
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    before = counted_by_nft(host)
    host.run([*IPTREC, "record", "-q", "-o", str(path), "--backend", "nft", "--", *send])
    after = counted_by_nft(host)
    chain = f"{family} fw", "judged"
    false, said, hits, unknown = [], Counter(), Counter(), Counter()
    for header, rule, matched, judgement in claims(path, chain, "v1"):
        hits[(*chain, rule.handle)] += matched
        if judgement.fits not in (None, matched):
            false.append((rule.spec, judgement, header))
        said[judgement.fits is None] += not header.get("ext")
        if judgement.fits is None and not header.get("ext"):
            unknown[rule.spec] += 1
    assert false == []
    counted = {key: after[key] - before[key] for key in after if key[:2] == chain}
    assert sum(counted.values()) >= hits.total() > 0
    assert said[False] > 0.98 * said.total(), unknown
