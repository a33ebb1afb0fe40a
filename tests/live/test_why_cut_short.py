"""`iptrec why` of native rules of nf_tables: packets that end where a header should be, and rare protocols."""

from __future__ import annotations

import json
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

pytestmark = pytest.mark.live

MATCHES = """\
comp cpi 2
comp cpi 3
exthdr frag exists
exthdr frag missing
exthdr dst exists
exthdr dst missing
exthdr rt exists
exthdr rt missing
exthdr hbh exists
exthdr mh exists
exthdr mh missing
frag id 5""".splitlines()
COMPRESSED = 108, bytes.fromhex("11000002") + b"abcdefgh"
IPV4 = [frames.ipv4(*COMPRESSED), frames.ipv4(*frames.udp(9, 53))]
IPV6 = [
    frames.ipv6(*COMPRESSED),
    frames.ipv6(*frames.udp(9, 53)),
    *(frames.ipv6(kind, bytes([17, 0, 0, 1])[:size]) for kind in (43, 44, 60, 135) for size in range(5)),
    *(frames.IPV6[one] for one in ("hop", "dst", "route", "first", "later")),
]  # fmt: skip


def test_no_claim_is_false(lab, tmp_path):
    """Each rule matched or not as it is said, and all but what follows other headers is known."""
    frames.neighbour(lab)
    rules = "\n".join(f"{one} counter" for one in MATCHES)
    chain = f"chain c {{ type filter hook prerouting priority mangle; policy accept\n{rules}\n}}"
    lab.run(["nft", "-f", "-"], stdin=f"table inet fw {{\n{chain}\n}}\n")
    sent = tmp_path / "frames.json"
    sent.write_text(json.dumps(frames.of_neighbour(lab, [*IPV4, *IPV6])))
    path = tmp_path / "t.db"
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    lab.run(
        [*IPTREC, "record", "-q", "-o", str(path), "--iface", "v1", "--backend", "nft", "--", *send]
    )
    false, said = [], Counter()
    for header, rule, matched, judgement in claims(path, ("inet fw", "c"), "v1"):
        said[matched, judgement.fits] += 1
        if judgement.fits not in (None, matched):
            false.append((rule.spec, matched, judgement, header))
    assert false == []
    assert said[True, True] >= 40
    assert said[False, False] >= 100
