"""`iptrec why`: every match of iptables that a packet tells, for packets of every sort, on both backends."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

pytestmark = pytest.mark.live

BOTH = """\
-m dscp --dscp 0x08
-m dscp ! --dscp 0x2e
-m tos --tos 0x20/0xff
-m tos ! --tos 0x03/0x03
-m ecn --ecn-ip-ect 3
-m ecn ! --ecn-ip-ect 0
-p tcp -m ecn --ecn-tcp-ece
-p tcp -m ecn ! --ecn-tcp-cwr
-p tcp -m tcp --tcp-option 2
-p tcp -m tcp ! --tcp-option 8
-p tcp -m tcpmss --mss 1000:1460
-p tcp -m tcpmss ! --mss 536
-m string --string "needle" --algo bm
-m string --string "needle" --algo kmp --icase
-m string ! --string "needle" --algo kmp --from 40 --to 60
-m string --string "needle" --algo kmp --to 34
-m string --string "needle" --algo bm --to 33
-m string --string "needle" --algo bm --from 28 --to 54
-m string ! --string "needle" --algo kmp --from 28 --to 53
-m string --string "needle" --algo bm --to 48
-m string --hex-string "|020405b4|" --algo bm
-m time --timestart 00:00:00 --timestop 23:59:59
-m time --datestart 2037-01-01T00:00:00
-m time --weekdays Mon,Tue,Wed,Thu,Fri,Sat,Sun --timestart 23:59:59 --timestop 23:59:58 --contiguous
-m physdev --physdev-is-in
-m physdev ! --physdev-is-bridged
-m mac --mac-source 02:00:00:00:00:99
-m mac ! --mac-source 02:00:00:00:00:99
-m length --length 29:60
-m mark --mark 0x6
-m mark ! --mark 0x6
-m esp -p esp --espspi 5
-p udp -m udp --dport 53
-p udp -m udp ! --dport 53
-p tcp -m multiport --dports 80,443
-p udp -m multiport ! --dports 53
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type LOCAL
-m addrtype --dst-type MULTICAST
-m addrtype --src-type UNICAST
-m addrtype --dst-type LOCAL --limit-iface-in
-m conntrack --ctstate INVALID
-m conntrack ! --ctstate NEW
""".splitlines()
OF_IPV4 = """\
-m u32 --u32 "0x6&0xff=0x11"
-m u32 ! --u32 "0x0>>0x16&0x3c@0x0&0xffff=0x50,0x35"
-m u32 --u32 "0x4&0x1fff=0x0&&0x0&0xffff=0x1c:0x40"
-m addrtype --dst-type BROADCAST
-m addrtype ! --dst-type UNICAST
-p ah -m ah --ahspi 6
-p ah -m ah ! --ahspi 6
-p icmp -m icmp --icmp-type 8
-f
! -f
""".splitlines()
OF_IPV6 = """\
-m hbh
-m hbh --hbh-len 8
-m hbh ! --hbh-len 8
-m hbh --hbh-opts 1:4
-m hbh --hbh-opts 1:3
-m dst --dst-len 8 --dst-opts 1
-m rt --rt-type 0 --rt-segsleft 0
-m rt ! --rt-len 16
-m frag --fragid 5:6 --fragfirst
-m frag --fragmore
-m frag ! --fragid 5
-m frag --fraglast --fragres
-m ah --ahspi 5 --ahlen 24 --ahres
-m ipv6header --header hop-by-hop,protocol
-m ipv6header --header hop-by-hop --soft
-m ipv6header ! --header ipv6-frag,protocol
-m ipv6header --header ipv6-frag
-m ipv6header --header ipv6-frag,protocol
-m ipv6header ! --header ipv6-frag,ipv6-opts --soft
-m ipv6header ! --header ipv6-route,ah --soft
-m eui64
""".splitlines()
WRITES = {
    4: "-p tcp -j MARK --set-xmark 0x6/0xffffffff\n-p udp -m udp --dport 5000 -j TTL --ttl-set 9\n",
    6: "-p tcp -j MARK --set-xmark 0x6/0xffffffff\n-p udp -m udp --dport 5000 -j HL --hl-set 9\n",
}
AFTER = {4: "-m ttl --ttl-eq 64\n-m ttl --ttl-eq 9\n", 6: "-m hl --hl-eq 64\n-m hl --hl-eq 9\n"}
# What is not in two headers of 40 and 20 bytes, or not recorded.
UNTOLD = {
    "legacy": ("--ctstate",),
    "nft": ("--string", "--hex-string", "--mss", "--tcp-option", "physdev", "--u32"),
}
FAMILIES = {4: ("iptables", "ipv4", frames.IPV4), 6: ("ip6tables", "ipv6", frames.IPV6)}


@pytest.mark.parametrize("version", FAMILIES)
def test_judgements_are_the_kernels(lab, backend, version, tmp_path):
    """No claim is false, and of what packet and snapshots tell 95 % are judged."""
    tool, family, packets = FAMILIES[version]
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.ip(None, "address add fd00:1::1/64 dev v1 nodad")
    lab.settle()
    matches = [*WRITES[version].splitlines(), *BOTH, *(OF_IPV4 if version == 4 else OF_IPV6)]
    rules = "".join(f"-A PREROUTING {one}\n" for one in [*matches, *AFTER[version].splitlines()])
    lab.restore(None, family, f"*mangle\n{rules}COMMIT\n", backend)
    sent = tmp_path / "frames.json"
    sent.write_text(
        json.dumps(
            frames.framed(
                packets.values(), frames.mac(lab, None, "v1"), frames.mac(lab, "h", "eth0")
            )
        )
    )
    path = tmp_path / "t.db"
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    options = ["--iface", "v1", "--family", family, "--backend", backend]
    lab.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", *send])
    hits = Counter()
    false, told, judged = [], 0, 0
    for header, rule, matched, judgement in claims(path, ("mangle", "PREROUTING"), "v1"):
        hits[rule.spec] += matched
        if judgement.fits not in (None, matched):
            false.append((rule.spec, judgement, header))
        if not any(one in rule.spec for one in UNTOLD[backend]) and not (
            backend == "nft" and header.get("ext")
        ):
            told += 1
            judged += judgement.fits is not None
    assert false == []
    assert judged >= 0.95 * told
    assert told > 0.25 * len(matches) * len(packets)
    # What the trace says to have matched is what the kernel counted; of IPv6 it saw listeners' reports before.
    saved = lab.run([f"{tool}-{backend}-save", "-c", "-t", "mangle"]).stdout
    counted = Counter()
    for number, spec in re.findall(r"^\[(\d+):\d+\] -A PREROUTING (.*)$", saved, re.MULTILINE):
        counted[spec] += int(number)
    assert {spec for spec in counted if hits[spec] > counted[spec]} == set()
    assert version == 6 or {spec: hits[spec] for spec in counted} == dict(counted)
