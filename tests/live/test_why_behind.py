"""`iptrec why` of IPv6 packets with extension headers: no claim is against the kernel, what is known is said.

A trace of nf_tables tells the beginning of the transport header behind them, not of which protocol it is.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

pytestmark = pytest.mark.live
BEHIND = ("hop", "dst", "route", "both", "first", "later", "auth", "syn", "udp")
NATIVE = """\
th dport 53
th dport 54
th sport != 9
th dport { 53, 80 }
@th,16,16 53
@th,16,16 != 53
@th,0,32 & 0xffff == 0x35
udp dport 53
udp dport 54
udp dport != 53
udp dport { 50-54 }
udp dport { 80, 443 }
udp length 9
udp length 12
tcp dport 80
tcp dport 81
tcp dport != 80
tcp flags syn
tcp flags ack
tcp flags & (syn | ack) == ack
icmpv6 type echo-request
icmpv6 type != echo-request
icmpv6 id 5
meta l4proto udp th dport 53
meta l4proto udp udp dport 99
""".splitlines()
IPTABLES = """\
-p udp -m udp --dport 53
-p udp -m udp --dport 54
-p udp -m udp ! --dport 53
-p udp -m udp --sport 9 --dport 50:54
-p udp -m multiport --dports 53,80
-p udp -m multiport --dports 54,80
-p tcp -m tcp --dport 80
-p tcp -m tcp --dport 81
-p tcp -m tcp --tcp-flags SYN SYN
-p tcp -m tcp --tcp-flags ACK ACK
-p tcp -m tcp ! --tcp-flags SYN SYN
-p ipv6-icmp -m icmp6 --icmpv6-type 128
""".splitlines()
# Of these a trace tells no more than that they may match; all else is judged, but of a later fragment.
PERHAPS = ("udp", "tcp", "icmp")


def table(rules):
    chain = "\n".join(f"\t\t{one} counter" for one in rules)
    head = "type filter hook prerouting priority mangle; policy accept;"
    return f"table ip6 fw {{\n\tchain judged {{\n\t\t{head}\n{chain}\n\t}}\n}}\n"


@pytest.fixture
def host(lab):
    lab.host("h")
    lab.link("h", "eth0", peer="v1")
    lab.ip(None, "address add fd00:1::1/64 dev v1 nodad")
    lab.settle()
    return lab


@pytest.mark.parametrize("sort", ["legacy", "nft", "native"])
def test_judgements_are_the_kernels(host, tmp_path, sort):
    if sort == "native":
        host.run(["nft", "-f", "-"], stdin=table(NATIVE))
        chain = "ip6 fw", "judged"
    else:
        rules = "".join(f"-A PREROUTING {one}\n" for one in IPTABLES)
        host.restore(None, "ipv6", f"*mangle\n{rules}COMMIT\n", sort)
        chain = "mangle", "PREROUTING"
    ends = frames.mac(host, None, "v1"), frames.mac(host, "h", "eth0")
    sent = tmp_path / "frames.json"
    sent.write_text(json.dumps(frames.framed([frames.IPV6[one] for one in BEHIND], *ends)))
    backend = "legacy" if sort == "legacy" else "nft"
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    options = ["--iface", "v1", "--family", "ipv6", "--backend", backend, "ip6 src fd00:1::2"]
    path = tmp_path / "t.db"
    host.run([*IPTREC, "record", "-q", "-o", str(path), *options[:-1], "--", *send])
    false, said = [], Counter()
    for header, rule, matched, judgement in claims(path, chain, "v1"):
        if judgement.fits not in (None, matched):
            false.append((rule.spec, judgement, header))
        ext = bool(header.get("ext"))
        open_ = judgement.fits is None
        said[ext, matched, open_] += 1
        if open_ and sort == "legacy":
            assert header.get("frag"), (rule.spec, judgement, header)
        if open_ and ext:
            assert any(one in rule.spec for one in PERHAPS) or header["src"] is None, rule.spec
    assert false == []
    # Most rules that packets with extension headers passed over are judged.
    assert said[True, False, False] > 1.5 * said[True, False, True], said
