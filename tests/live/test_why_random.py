"""`iptrec why` of rulesets by chance whose rules rewrite packets: no claim is against the kernel.

IPTREC_WHY_SEEDS: how many rulesets of each sort, 2 without.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field

import frames
import pytest
from command import IPTREC
from judged import claims, mac
from random_rules import CHAINS, Iptables, Native

pytestmark = pytest.mark.live
SEEDS = range(int(os.environ.get("IPTREC_WHY_SEEDS", "2")))
SORTS = ("legacy", "nft", "native")
FAMILIES = {4: ("iptables", "ipv4", frames.IPV4), 6: ("ip6tables", "ipv6", frames.IPV6)}
FAR = {4: "10.0.2.2", 6: "fd00:2::2"}
MULTICAST = ("multicast", "broadcast", "other")


@dataclass
class Figures:
    """Pairs of rules and packets: those that packet and snapshots tell, those that are judged."""

    pairs: int = 0
    told: int = 0
    judged: int = 0
    false: list = field(default_factory=list)
    unjudged: Counter = field(default_factory=Counter)
    hits: Counter = field(default_factory=Counter)


@pytest.fixture
def router(lab):
    """A router between a host behind v1 and one behind v2."""
    for host, name, four, six in (("h", "v1", "10.0.1.{}/24", "fd00:1::{}/64"), ("g", "v2", "10.0.2.{}/24", "fd00:2::{}/64")):
        lab.host(host)
        lab.link(host, "eth0", four.format(2), six.format(2), peer=name)
        lab.ip(None, f"address add {four.format(1)} dev {name}")
        lab.ip(None, f"address add {six.format(1)} dev {name} nodad")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
    lab.settle()
    return lab


def sent(lab, version, path):
    """Frames of every sort, for the router and for the host behind it."""
    packets = dict(FAMILIES[version][2])
    far = {
        name: far_away(packet, version) for name, packet in packets.items() if name not in MULTICAST
    }
    ours, theirs = mac(lab, None, "v1"), mac(lab, "h", "eth0")
    path.write_text(json.dumps(frames.framed([*packets.values(), *far.values()], ours, theirs)))
    return ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(path)]


def far_away(packet, version):
    """The same for another destination."""
    import ipaddress

    packed = ipaddress.ip_address(FAR[version]).packed
    start = 16 if version == 4 else 24
    packet = packet[:start] + packed + packet[start + len(packed) :]
    if version == 4:
        size = 4 * (packet[0] & 0xF)
        head = packet[:10] + bytes(2) + packet[12:size]
        packet = head[:10] + frames.checksum(head).to_bytes(2, "big") + packet[12:]
    return packet


def measured(lab, tmp_path, sort, version, seed):
    """Record packets through a ruleset, and judge every rule that each of them met."""
    tool, family, _ = FAMILIES[version]
    native = Native(seed, version) if sort == "native" else None
    if native:
        rules = tmp_path / "rules.nft"
        rules.write_text(native.ruleset())
        lab.run(["nft", "-f", str(rules)])
        table = "fw" if False else native.table
    else:
        lab.restore(None, family, Iptables(seed, version).ruleset(), sort)
        table = "mangle"
    backend = "legacy" if sort == "legacy" else "nft"
    path = tmp_path / "t.db"
    options = ["--iface", "v1", "--family", family, "--backend", backend]
    send = sent(lab, version, tmp_path / "frames.json")
    lab.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", *send])
    found = Figures()
    for chain in [*CHAINS, "other"]:
        for header, rule, matched, judgement in claims(path, (table, chain), "v1"):
            found.pairs += 1
            found.hits[chain, rule.handle or rule.spec] += matched
            if judgement.fits not in (None, matched):
                found.false.append((chain, rule.spec, judgement, header))
            if backend == "legacy" or not (header.get("ext") or header.get("frag")):
                found.told += 1
                found.judged += judgement.fits is not None
                if judgement.fits is None:
                    found.unjudged[re.sub(r"0x\w+|\d+", "N", judgement.because)] += 1
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("sort", SORTS)
def test_rewritten_packets(router, tmp_path, sort, version, seed):
    """No claim is false, and of what packet and snapshots tell 95 % are judged."""
    found = measured(router, tmp_path, sort, version, seed)
    if out := os.environ.get("IPTREC_WHY_FIGURES"):
        with open(out, "a") as file:
            print(
                json.dumps([sort, version, seed, found.pairs, found.told, found.judged, len(found.false), found.unjudged.most_common()]),
                file=file,
            )
    assert found.false == []
    assert found.pairs > 300
    assert found.judged >= 0.95 * found.told, found.unjudged.most_common(20)
