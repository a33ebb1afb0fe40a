"""`iptrec why` of rules of nf_tables that set a field and then ask for it, where a packet ends in a header."""

from __future__ import annotations

import json
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

pytestmark = pytest.mark.live
SETS = {
    "udp dport": 7777, "udp sport": 7777, "udp length": 9, "udp checksum": 7,
    "tcp dport": 7777, "tcp sequence": 7, "tcp window": 7,
    "icmp type": "echo-reply", "icmp code": 3, "icmpv6 type": "echo-reply", "icmpv6 code": 3,
    "ip saddr": "10.9.9.9", "ip daddr": "10.0.1.1", "ip ttl": 33, "ip dscp": "ef", "ip id": 5,
    "ip6 saddr": "fd09::9", "ip6 hoplimit": 33, "ip6 dscp": "ef", "ip6 flowlabel": 7,
    "meta mark": 7, "ct mark": 7, "meta priority": "1:2", "meta pkttype": "host", "sctp dport": 7777,
    "th dport": 7777, "@th,16,16": 7777, "@nh,64,8": 33, "udplite dport": 7777, "dccp dport": 7777,
}  # fmt: skip
LONGEST = 21  # bytes of a transport header that come


def rules():
    """Conditions that hold and that do not, after each value is set; last what they leave for the next rule."""
    for key, value in SETS.items():
        yield f"{key} set {value} {key} {value} counter"
        yield f"{key} set {value} {key} != {value} counter"
        yield f"{key} set {value} ip ttl 99 {key} {value} counter"
        yield f"{key} {value} counter"
    yield "meta mark set meta mark | 0x30 meta mark & 0x10 == 0x10 counter"
    yield "meta mark set meta mark | 0x30 meta mark & 0x10 == 0 counter"
    yield "meta mark set ct mark meta mark 7 counter"
    yield "ip dscp set cs1 ip ecn not-ect counter"
    yield "ip dscp set cs2 ip checksum 0 counter"
    yield "udp dport set 8888 udp checksum 0 counter"


def cut():
    """Packets of each protocol whose transport header has so many bytes."""
    for size in range(LONGEST):
        for kind, body in (
            frames.udp(9, 53),
            frames.tcp(9, 80, 2),
            frames.echo(),
            (132, bytes(20)),
        ):
            yield frames.ipv4(kind, (body + bytes(20))[:size])
        for kind, body in (frames.udp(9, 53), frames.tcp(9, 80, 2), (58, bytes([128, *[0] * 30]))):
            yield frames.ipv6(kind, (body + bytes(20))[:size])


def test_no_claim_is_false(lab, tmp_path):
    frames.neighbour(lab)
    lab.run(["nft", "add table inet fw"])
    lab.run(["nft", "add chain inet fw c { type filter hook prerouting priority 0 ; }"])
    for rule in rules():  # some are not known to every nft
        lab.run(["nft", f"add rule inet fw c {rule}"], check=False)
    sent = tmp_path / "frames.json"
    sent.write_text(json.dumps(frames.of_neighbour(lab, [*cut()])))
    path = tmp_path / "t.db"
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    lab.run(
        [*IPTREC, "record", "-q", "-o", str(path), "--iface", "v1", "--backend", "nft", "--", *send]
    )
    false, said, unknown = [], Counter(), Counter()
    for header, rule, matched, judgement in claims(path, ("inet fw", "c"), "v1"):
        said[judgement.fits is None] += 1
        unknown[judgement.because] += judgement.fits is None
        if judgement.fits not in (None, matched):
            false.append((rule.spec, matched, judgement.because, header))
    assert false == []
    assert said[False] > 0.85 * said.total(), unknown
