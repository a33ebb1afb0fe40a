"""`iptrec why`: every match of iptables that a packet tells, for packets of every sort, on both backends."""

from __future__ import annotations

import ipaddress
import json
import re
import struct
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

from iptrec.matching.iptables_host import UNREAD

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
-m pkttype --pkt-type unicast
-m pkttype --pkt-type broadcast
-m pkttype ! --pkt-type multicast
-m rpfilter
-m rpfilter --invert
-m rpfilter --loose
-m rpfilter --validmark --invert
-p sctp -m sctp --dport 5000
-p sctp -m sctp --chunk-types any INIT
-p sctp -m sctp --chunk-types any INIT,DATA:ubE
-p sctp -m sctp --chunk-types any DATA:U
-p sctp -m sctp ! --chunk-types only DATA:BE
-p sctp -m sctp --chunk-types only DATA
-p sctp -m sctp --chunk-types all DATA,SACK
-p dccp -m dccp --dccp-types REQUEST,RESPONSE
-p dccp -m dccp ! --dccp-types DATA
-p 108 -m ipcomp --ipcompspi 5:6
-p 94
-p 4
-m conntrack --ctproto 17
-m conntrack ! --ctproto 6
-m conntrack --ctdir ORIGINAL
-m conntrack ! --ctstatus EXPECTED,ASSURED
-m conntrack --ctstatus CONFIRMED
-p udp -m conntrack --ctorigdstport 53
-p udp -m conntrack --ctstate INVALID --ctorigdstport 53
-m connmark --mark 0x1
-m helper --helper ftp
-m helper ! --helper ftp
-m devgroup --src-group default
-m devgroup --src-group 0x7
-m devgroup ! --src-group 0x10/0xf0
-m policy --dir in --pol none
-m policy --dir in --pol ipsec
-m policy --dir in --pol ipsec --strict ! --reqid 5 --proto esp
-m bpf --bytecode "4,48 0 0 9,21 0 1 17,6 0 0 1,6 0 0 0"
-m bpf --bytecode "4,48 0 0 6,21 0 1 17,6 0 0 1,6 0 0 0"
-m bpf --bytecode "4,128 0 0 0,37 0 1 64,22 0 0 0,6 0 0 0"
-m bpf --bytecode "6,177 0 0 0,72 0 0 2,21 0 2 53,128 0 0 0,22 0 0 0,6 0 0 0"
-m bpf --bytecode "8,48 0 0 1,84 0 0 252,116 0 0 2,2 0 0 3,96 0 0 3,21 0 1 46,6 0 0 1,6 0 0 0"
-m bpf --bytecode "3,32 0 0 200,6 0 0 1,6 0 0 0"
-m bpf --bytecode "5,128 0 0 0,20 0 0 4,7 0 0 0,80 0 0 0,22 0 0 0"
-m bpf --bytecode "5,1 0 0 0,0 0 0 7,60 0 0 0,6 0 0 1,6 0 0 0"
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
-m rt --rt-type 0 --rt-0-res
-m rt --rt-type 0 --rt-segsleft 0:2 --rt-0-res
-m rt --rt-type 0 --rt-0-addrs fd00:1::3,fd00:1::4
-m rt --rt-type 0 --rt-0-addrs fd00:1::3
-m rt --rt-type 0 --rt-0-addrs fd00:1::4 --rt-0-not-strict
-m rt --rt-type 0 ! --rt-len 24 --rt-0-addrs fd00:1::3,fd00:1::4 --rt-0-not-strict
-m rt --rt-type 0 --rt-0-res --rt-0-addrs fd00:1::4,fd00:1::3 --rt-0-not-strict
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
-p 135 -m mh --mh-type 1:3
-p 135 -m mh ! --mh-type 1
-m srh --srh-segs-left-eq 1
-m srh --srh-last-entry-lt 2 --srh-hdr-len-gt 3
-m srh ! --srh-next-hdr 17
""".splitlines()
WRITES = {
    4: "-p tcp -j MARK --set-xmark 0x6/0xffffffff\n-p udp -m udp --dport 5000 -j TTL --ttl-set 9\n",
    6: "-p tcp -j MARK --set-xmark 0x6/0xffffffff\n-p udp -m udp --dport 5000 -j HL --hl-set 9\n",
}
AFTER = {
    4: """\
-m ttl --ttl-eq 64
-m ttl --ttl-eq 9
-m u32 --u32 "0x8>>0x18=0x9"
-m bpf --bytecode "2,40 0 0 10,22 0 0 0"
-m bpf --bytecode "3,40 0 0 10,84 0 0 255,22 0 0 0"
""",
    6: "-m hl --hl-eq 64\n-m hl --hl-eq 9\n",
}
# What the kernel remembers, draws by lot or has beside the packet.
UNKNOWABLE = """\
-m cpu --cpu 0
-m limit --limit 5/sec
-m statistic --mode random --probability 0.5
-m socket
-m quota --quota 1000
-m hashlimit --hashlimit-upto 5/sec --hashlimit-name a --hashlimit-mode srcip
-m connlimit --connlimit-upto 5
-m recent --name a --set
-m connbytes --connbytes 1: --connbytes-mode packets --connbytes-dir both
""".splitlines()
# What is not in two headers of 40 and 20 bytes, or not recorded.
UNTOLD = {
    "legacy": ("conntrack", "connmark", "helper"),
    "nft": (
        "connmark",
        "helper",
        "--string",
        "--hex-string",
        "--mss",
        "--tcp-option",
        "physdev",
        "--u32",
    ),
}
CHUNKS = bytes.fromhex("0003001100000001000000010000000178000000")  # DATA, a byte of it, padded
BODIES = {
    "init": (132, struct.pack("!HHII", 9, 5000, 1, 0) + bytes.fromhex("01000014") + bytes(16)),
    "data": (132, struct.pack("!HHII", 9, 5000, 1, 0) + CHUNKS),
    "couple": (132, struct.pack("!HHII", 9, 5001, 1, 0) + CHUNKS + bytes.fromhex("03000004")),
    "dccp": (33, struct.pack("!HHBBHB", 9, 5000, 4, 0, 0, 0x01) + bytes(7)),
    "dccp-data": (33, struct.pack("!HHBBHB", 9, 5000, 4, 0, 0, 0x05) + bytes(7)),
    "compressed": (108, struct.pack("!BBH", 4, 0, 5) + bytes(16)),
    "ipencap": (4, bytes(20)),
    "ipip": (94, bytes(20)),
}
VIA = (
    b"\4\0\2" + bytes(4) + b"".join(ipaddress.ip_address(f"fd00:1::{one}").packed for one in (3, 4))
)
OF_FAMILY = {
    4: {},
    6: {
        "mobility": (135, bytes.fromhex("3b00010000000000")),
        "via": frames.before(VIA, 43, frames.udp(9, 53)),
        "reserved": frames.before(b"\2\0\1\0\0\1\0" + 16 * b"\0", 43, frames.udp(9, 53)),
        "segments": frames.before(
            bytes.fromhex("04040101000007") + 2 * bytes.fromhex("fd00" + 12 * "00" + "0001"),
            43,
            frames.udp(9, 53),
        ),
    },
}
LINK_ADDRESSES = ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:05", "33:33:00:00:00:01")
FAMILIES = {4: ("iptables", "ipv4", frames.IPV4), 6: ("ip6tables", "ipv6", frames.IPV6)}


@pytest.mark.parametrize("version", FAMILIES)
def test_judgements_are_the_kernels(lab, backend, version, tmp_path):
    """No claim is false, and of what packet and snapshots tell 95 % are judged."""
    tool, family, packets = FAMILIES[version]
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.ip(None, "address add fd00:1::1/64 dev v1 nodad")
    lab.ip(None, "link set v1 group 7")
    lab.settle()
    made = frames.ipv4 if version == 4 else frames.ipv6
    packets = packets | {name: made(*one) for name, one in (BODIES | OF_FAMILY[version]).items()}
    source = frames.mac(lab, "h", "eth0")
    all_frames = frames.framed(packets.values(), frames.mac(lab, None, "v1"), source)
    for address in LINK_ADDRESSES:
        all_frames += frames.framed([packets["udp"]], address, source)
    matches = [*WRITES[version].splitlines(), *BOTH, *(OF_IPV4 if version == 4 else OF_IPV6)]
    every = [*matches, *AFTER[version].splitlines(), *UNKNOWABLE]
    rules = "".join(f"-A PREROUTING {one}\n" for one in every)
    lab.restore(None, family, f"*mangle\n{rules}COMMIT\n", backend)
    sent = tmp_path / "frames.json"
    sent.write_text(json.dumps(all_frames))
    path = tmp_path / "t.db"
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    options = ["--iface", "v1", "--family", family, "--backend", backend]
    lab.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", *send])
    hits, said = Counter(), {}
    unknowable = {one.split()[1] for one in UNKNOWABLE}
    false, told, judged, doubted = [], 0, 0, set()
    for header, rule, matched, judgement in claims(path, ("mangle", "PREROUTING"), "v1"):
        hits[rule.spec] += matched
        if judgement.fits not in (None, matched):
            false.append((rule.spec, judgement, header))
        if unknowable.intersection(rule.spec.split()):
            assert judgement.fits is None, rule.spec
            continue
        said.setdefault(rule.spec, set()).add(judgement.fits)
        if not any(one in rule.spec for one in UNTOLD[backend]) and not (
            backend == "nft" and header.get("ext")
        ):
            told += 1
            judged += judgement.fits is not None
        if judgement.remark == UNREAD:
            doubted.add(rule.spec)
    assert false == []
    untold = {spec for spec, all_said in said.items() if all_said == {None}} - doubted
    assert {spec for spec in untold if not any(one in spec for one in UNTOLD[backend])} == set()
    assert judged >= 0.95 * told
    assert told > 0.25 * len(matches) * len(packets)
    # What the trace says to have matched is what the kernel counted; of IPv6 it saw listeners' reports before.
    saved = lab.run([f"{tool}-{backend}-save", "-c", "-t", "mangle"]).stdout
    counted = Counter()
    for number, spec in re.findall(r"^\[(\d+):\d+\] -A PREROUTING (.*)$", saved, re.MULTILINE):
        counted[spec] += int(number)
    assert {spec for spec in counted if hits[spec] > counted[spec]} == set()
    assert version == 6 or {spec: hits[spec] for spec in counted} == dict(counted)
