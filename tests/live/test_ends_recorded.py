"""Ways to die behind the rules: each is sent for real, and told by what was recorded beside the packets."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from typing import NamedTuple

import frames
import pytest
import recorder
from command import IPTREC
from told_alike import ends as every_view

pytestmark = pytest.mark.live

ROUTER = {"a": "10.0.1.1", "b": "10.0.2.1", "c": "10.0.3.1", "d": "10.0.4.1"}
LISTEN = """
import socket
ears = [socket.socket(socket.AF_INET6, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
for ear in ears:
    ear.bind(("::", 5000))
ears[1].listen()
print("ready", flush=True)
input()
"""
ROUTES = """\
route add blackhole {b}
route add unreachable {u}
route add prohibit {p}
route add throw {t}
route add {m} via {far} mtu 1300
rule add fwmark 7 blackhole priority 90
rule add fwmark 9 unreachable priority 92
rule add fwmark 10 prohibit priority 93
rule add fwmark 8 lookup 100 priority 91
route add default via {far} table 100
"""
NETS = {
    4: {"b": "10.9.1.0/24", "u": "10.9.2.0/24", "p": "10.9.3.0/24", "t": "10.9.4.0/24", "m": "10.9.5.0/24",
        "far": "10.0.2.2"},
    6: {"b": "fd91::/32", "u": "fd92::/32", "p": "fd93::/32", "t": "fd94::/32", "m": "fd95::/32",
        "far": "fd00:2::2"},
}  # fmt: skip
LEGACY = """\
*mangle
-A PREROUTING -p udp --sport 29007 -j MARK --set-mark 7
-A PREROUTING -p udp --sport 29008 -j MARK --set-mark 8
-A PREROUTING -p udp --sport 29009 -j MARK --set-mark 9
-A PREROUTING -p udp --sport 29010 -j MARK --set-mark 10
COMMIT
*nat
-A PREROUTING -p udp --dport 4000 -j DNAT --to-destination {nowhere}
COMMIT
*filter
-A INPUT -p udp -j ACCEPT
-A FORWARD -p udp -j ACCEPT
COMMIT
"""
NFT = """\
table inet fw {{
    chain pre {{ type filter hook prerouting priority -150;
        udp sport 29007 meta mark set 7
        udp sport 29008 meta mark set 8
        udp sport 29009 meta mark set 9
        udp sport 29010 meta mark set 10
    }}
    chain translate {{ type nat hook prerouting priority -100;
        meta nfproto ipv4 udp dport 4000 dnat ip to 10.9.9.9
        meta nfproto ipv6 udp dport 4000 dnat ip6 to fd99::9
    }}
    chain input_ {{ type filter hook input priority 0; meta l4proto udp accept; }}
    chain forward_ {{ type filter hook forward priority 0; meta l4proto udp accept; }}
}}
"""


class Way(NamedTuple):
    """A packet from a host, and what ``why`` is to say: the reason and some words; "" for nothing."""

    host: str
    src: str
    dst: str
    reason: str
    words: str = ""
    ttl: int = 64
    size: int = 1
    whole: bool = False
    port: int = 5000
    mark: int = 0
    protocol: int = 17
    verdict: str = "UNKNOWN"
    options: bytes = b""
    labelled: bool = True  # IPv6's flow label is its number


A4, A6, B4, B6 = "10.0.1.2", "fd00:1::2", "10.0.2.2", "fd00:2::2"
PASSED = "ACCEPT"
NO_SOCKET = "no socket took it: none had UDP port 9 while this was recorded"
WAYS = {
    "rp_filter, strict": Way("a", "10.0.2.99", B4, "IP_RPFILTER",
        "strict reverse path filtering would have dropped it: the route to 10.0.2.99 is by to-b"
        " (10.0.2.0/24 dev to-b), net.ipv4.conf.to-a.rp_filter is 1"),
    "rp_filter, strict, no route": Way("a", "203.0.113.9", B4, "IP_RPFILTER",
        "there is no route to 203.0.113.9"),
    "rp_filter, loose": Way("c", "203.0.113.9", B4, "IP_RPFILTER",
        "loose reverse path filtering would have dropped it: there is no route to 203.0.113.9,"
        " net.ipv4.conf.to-c.rp_filter is 2"),
    "rp_filter, loose, is routed": Way("c", "10.0.1.77", B4, "", verdict=PASSED),
    "own source": Way("a", "10.0.2.1", B4, "IP_LOCAL_SOURCE", "its source 10.0.2.1 is an address of this host"),
    "own source, unfiltered": Way("e", "10.0.2.1", B4, "IP_LOCAL_SOURCE",
        "net.ipv4.conf.to-e.accept_local is 0"),
    "loopback source": Way("a", "127.0.0.5", B4, "IP_LOCALNET", "its source 127.0.0.5"),
    "loopback destination": Way("a", A4, "127.0.0.1", "IP_LOCALNET", "its destination 127.0.0.1"),
    "multicast source": Way("a", "224.0.0.5", B4, "IP_INVALID_SOURCE", "is a multicast address"),
    "broadcast source": Way("a", "10.0.1.255", B4, "IP_INVALID_SOURCE", "is a broadcast address"),
    "no route": Way("a", A4, "10.9.9.9", "IP_INNOROUTES", "there is no route to 10.9.9.9"),
    "throw": Way("a", A4, "10.9.4.4", "IP_INNOROUTES", "there is no route to 10.9.4.4"),
    "blackhole": Way("a", A4, "10.9.1.1", "BLACKHOLE", "the route is blackhole 10.9.1.0/24"),
    "unreachable": Way("a", A4, "10.9.2.1", "UNREACHABLE", "the route is unreachable 10.9.2.0/24"),
    "prohibit": Way("a", A4, "10.9.3.1", "PROHIBIT", "the route is prohibit 10.9.3.0/24"),
    "blackhole rule": Way("a", A4, B4, "BLACKHOLE", "routing rule 90 is blackhole", mark=7),
    "unreachable rule": Way("a", A4, B4, "IP_INNOROUTES", "routing rule 92 is unreachable", mark=9),
    "prohibit rule": Way("a", A4, B4, "PROHIBIT", "routing rule 93 is prohibit", mark=10),
    "forwarding off": Way("d", "10.0.4.2", B4, "IP_INADDRERRORS", "net.ipv4.conf.to-d.forwarding is 0"),
    "TTL": Way("a", A4, B4, "IP_INHDR", "its TTL is 1 (10.0.2.0/24 dev to-b)", ttl=1),
    "TTL, by a rule": Way("a", A4, "10.9.1.1", "IP_INHDR",
        "(default via 10.0.2.2 dev to-b table 100)", ttl=1, mark=8),
    "MTU": Way("a", A4, B4, "PKT_TOO_BIG",
        "it has 1450 bytes and DF, the MTU of to-b is 1400", size=1422, whole=True),
    "MTU of the route": Way("a", A4, "10.9.5.5", "PKT_TOO_BIG",
        "it has 1350 bytes and DF, the MTU of the route is 1300", size=1322, whole=True),
    "loose source route": Way("a", A4, B4, "SOURCE_ROUTE", "net.ipv4.conf.all.accept_source_route is 0",
        options=bytes([131, 7, 4, 10, 0, 2, 9, 0])),
    "strict source route": Way("a", A4, B4, "SOURCE_ROUTE", "net.ipv4.conf.all.accept_source_route is 0",
        options=bytes([1, 137, 7, 4, 10, 0, 2, 9])),
    "source route to nowhere": Way("a", A4, "10.9.9.9", "SOURCE_ROUTE", "accept_source_route is 0",
        options=bytes([131, 7, 4, 10, 0, 2, 9, 0])),
    "an option too long": Way("a", A4, B4, "", options=bytes([131, 255, 4, 0])),
    "no room in an option": Way("a", A4, B4, "", options=bytes([131, 3, 3, 0])),
    "MTU, to fragment": Way("a", A4, B4, "", size=1422, verdict=PASSED),
    "no UDP socket": Way("a", A4, "10.0.1.1", "NO_SOCKET",
        "this host answered port-unreachable", port=9, verdict=PASSED),
    "no TCP socket": Way("a", A4, "10.0.1.1", "NO_SOCKET", "this host answered with a RST", port=9, protocol=6,
        verdict=PASSED),
    "unknown protocol": Way("a", A4, "10.0.1.1", "IP_NOPROTO",
        "this host answered protocol-unreachable", protocol=200,
        verdict=PASSED),
    "neighbour": Way("a", A4, "10.0.2.77", "NEIGH_FAILED", "the next hop did not answer", verdict=PASSED),
    "DNAT": Way("a", A4, "10.0.1.1", "IP_INNOROUTES", "there is no route to 10.9.9.9", port=4000),
    "group": Way("a", A4, "239.1.2.3", "NOT_JOINED", "to-a has not joined the group 239.1.2.3"),
    "broadcast": Way("a", A4, "10.0.2.255", "NO_SOCKET", NO_SOCKET, port=9, verdict=PASSED),
    "onward": Way("a", A4, B4, "", verdict=PASSED),
    "here": Way("a", A4, "10.0.1.1", "", verdict=PASSED),
    "here, TCP": Way("a", A4, "10.0.1.1", "", protocol=6, verdict=PASSED),
    "no route 6": Way("a", A6, "fd99::1", "IP_INNOROUTES", "there is no route to fd99::1"),
    "throw 6": Way("a", A6, "fd94::1", "IP_INNOROUTES", "there is no route to fd94::1"),
    "blackhole 6": Way("a", A6, "fd91::1", "BLACKHOLE", "the route is blackhole fd91::/32"),
    "unreachable 6": Way("a", A6, "fd92::1", "IP_INNOROUTES", "the route is unreachable fd92::/32"),
    "prohibit 6": Way("a", A6, "fd93::1", "IP_INNOROUTES", "the route is prohibit fd93::/32"),
    "blackhole rule 6": Way("a", A6, B6, "BLACKHOLE", "routing rule 90 is blackhole", mark=7),
    "unreachable rule 6": Way("a", A6, B6, "IP_INNOROUTES", "routing rule 92 is unreachable", mark=9),
    "prohibit rule 6": Way("a", A6, B6, "IP_INNOROUTES", "routing rule 93 is prohibit", mark=10),
    "hop limit": Way("a", A6, B6, "IP_INHDR", "its hop limit is 1 (fd00:2::/64 dev to-b)", ttl=1),
    "too big 6": Way("a", A6, B6, "PKT_TOO_BIG", "it has 1450 bytes, the MTU of to-b is 1400", size=1402),
    "too big for the route 6": Way("a", A6, "fd95::5", "PKT_TOO_BIG", "this host answered packet-too-big",
        size=1302, verdict=PASSED),
    "local source 6": Way("a", "fe80::77", B6, "IP_INADDRERRORS", "packets from fe80::77 are not forwarded"),
    "no UDP socket 6": Way("a", A6, "fd00:1::1", "NO_SOCKET",
        "answered port-unreachable", port=9, verdict=PASSED),
    "no TCP socket 6": Way("a", A6, "fd00:1::1", "NO_SOCKET",
        "answered with a RST", port=9, protocol=6, verdict=PASSED),
    "neighbour 6": Way("a", A6, "fd00:2::77", "NEIGH_FAILED",
        "the next hop did not answer", verdict=PASSED),
    "DNAT 6": Way("a", A6, "fd00:1::1", "IP_INNOROUTES", "there is no route to fd99::9", port=4000),
    "group 6": Way("a", A6, "ff05::1234", "NOT_JOINED", "to-a has not joined the group ff05::1234"),
    "onward 6": Way("a", A6, B6, "", verdict=PASSED),
    "here 6": Way("a", A6, "fd00:1::1", "", verdict=PASSED),
    "here, TCP 6": Way("a", A6, "fd00:1::1", "", protocol=6, verdict=PASSED),
}  # fmt: skip


@pytest.fixture
def network(lab):
    """A router; a is filtered strictly, c loosely, packets from d are not forwarded, e is not filtered."""
    for number, name in enumerate("abcde", 1):
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{number}.2/24", f"fd00:{number}::2/64", peer=f"to-{name}")
        lab.ip(None, f"address add 10.0.{number}.1/24 broadcast + dev to-{name}")
        lab.ip(None, f"address add fd00:{number}::1/64 dev to-{name}")
    lab.ip(None, "link set to-b mtu 1400")
    for version, nets in NETS.items():
        lab.run(["ip", f"-{version}", "-batch", "-"], stdin=ROUTES.format(**nets))
    for path, value in (
        ("ipv4/ip_forward", 1), ("ipv6/conf/all/forwarding", 1), ("ipv4/icmp_ratelimit", 0),
        ("ipv6/icmp/ratelimit", 0), ("ipv4/conf/all/rp_filter", 0), ("ipv4/conf/to-a/rp_filter", 1),
        ("ipv4/conf/to-b/rp_filter", 0), ("ipv4/conf/to-c/rp_filter", 2), ("ipv4/conf/to-d/rp_filter", 0),
        ("ipv4/conf/to-e/rp_filter", 0), ("ipv4/conf/to-d/forwarding", 0),
    ):  # fmt: skip
        lab.sysctl(None, f"net/{path}", value)
    # What b answers is none of these packets.
    lab.restore("b", "ipv4", "*filter\n:OUTPUT DROP\nCOMMIT\n")
    lab.restore("b", "ipv6", "*filter\n-A OUTPUT -p icmpv6 --icmpv6-type 1 -j DROP\nCOMMIT\n")
    lab.settle()
    return lab


def packet(way, number):
    """The packet of a way; its source port is its number."""
    sport = 29000 + way.mark if way.mark else number
    body = frames.udp(sport, way.port, bytes(way.size))
    if way.protocol == 6:
        body = frames.tcp(number, way.port, 2)
    elif way.protocol != 17:
        body = way.protocol, struct.pack("!HH", number, 0)
    ends = {"src": way.src, "dst": way.dst}
    body = frames.summed(body, **ends)
    if ":" in way.dst:
        return frames.ipv6(*body, ttl=way.ttl, flow=number * way.labelled, **ends)
    offset = 0x4000 if way.whole else 0
    return frames.ipv4(
        *body, ttl=way.ttl, offset=offset, identity=number, options=way.options, **ends
    )


def send(lab, ways):
    """Each packet, to the router's own address of the link layer."""
    for host in sorted({way.host for way in ways.values()}):
        ends = frames.mac(lab, None, f"to-{host}"), frames.mac(lab, host, "eth0")
        sent = [packet(way, number) for number, way in ways.items() if way.host == host]
        told = json.dumps(frames.framed(sent, *ends))
        lab.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], host, stdin=told)


def loaded(lab, backend):
    if backend == "nft":
        lab.run(["nft", "-f", "-"], stdin=NFT.format())
        return
    for family, nowhere in (("ipv4", "10.9.9.9"), ("ipv6", "fd99::9")):
        lab.restore(None, family, LEGACY.format(nowhere=nowhere))


def recorded(lab, backend, path, ways, *words):
    """The packets by their ways' numbers; ``words``: a filter."""
    loaded(lab, backend)
    ear = lab.popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert ear.stdout.readline() == "ready\n"
    child = recorder.start(lab, *words, "--backend", backend, "-o", path, notes=True)
    send(lab, ways)
    # Nobody answers for a neighbour for three seconds.
    recorder.until(
        lambda: (
            "FAILED" in lab.run(["ip", "neigh", "show", "10.0.2.77"]).stdout or not failing(ways)
        )
    )
    recorder.until(
        lambda: (
            "FAILED" in lab.run(["ip", "neigh", "show", "fd00:2::77"]).stdout or not failing(ways)
        )
    )
    recorder.stop(child)
    return found_in(path, ways)


def unasked(path):
    """Forget what the kernel was asked."""
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute(
            "DELETE FROM chunk WHERE stream IN (SELECT id FROM stream WHERE kind = 'route-answers')"
        )


def found_in(path, ways):
    """The packets of a recording by their ways' numbers."""
    every = recorder.packets(path)
    return {number: one for one in every for number, way in ways.items() if is_of(one, number, way)}


def failing(ways):
    return any(way.reason == "NEIGH_FAILED" for way in ways.values())


def is_of(one, number, way):
    protocol = {17: "udp", 6: "tcp"}.get(way.protocol, str(way.protocol))
    header = one.header
    return (one.in_, header["src"], header["dst"]) == (f"to-{way.host}", way.src, way.dst) and (
        header["proto"] == protocol and header.get("sport", number) in (number, 29000 + way.mark)
    )


@pytest.mark.parametrize(
    "words", [(), ("not icmp and not icmp6 and not tcp src port 9",)], ids=["", "alone"]
)
def test_each_way(network, tmp_path, backend, words):
    """The reason of each that died, and none of what passed; also without what the router answered."""
    if backend == "nft" and shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("no nft")
    ways = dict(enumerate(WAYS.values(), 20000))
    path = tmp_path / "t.db"
    recorded(network, backend, path, ways, *words)
    unasked(path)
    found = found_in(path, ways)
    wrong = []
    for (number, way), name in zip(ways.items(), WAYS, strict=True):
        one = found[number]
        expected, phrase = way.reason, way.words
        if words and way.verdict == PASSED:  # what all rules let pass: the lists of sockets tell
            phrase = NO_SOCKET.replace("UDP", "TCP" if way.protocol == 6 else "UDP")
            expected = expected if expected == "NO_SOCKET" else ""
        told = (one.verdict, one.end.reason if one.end else "")
        doubtful = bool(one.end) and is_doubtful(one.end.text)
        if (
            told != (way.verdict, expected)
            or (one.end and phrase not in one.end.text)
            or (one.end and doubtful == one.end.sure)
        ):
            wrong.append((name, told, one.end, one.reason))
    assert not wrong, "\n".join(map(str, wrong))
    told = every_view(path, tmp_path)
    assert all(told[one.number][1] == one.end.reason for one in found.values() if one.end)


def is_doubtful(text):
    """Whether a text says that it is not sure."""
    return re.search(r"\b(perhaps|may|might|possibly)\b", text) is not None


GUEST = {4: "10.0.1.2", 6: "fd00:1::2"}
OTHERS = {4: "10.0.1.3", 6: "fd00:1::3"}
ROUTER_AT, FAR = {4: "10.0.1.1", 6: "fd00:1::1"}, {4: "10.0.2.2", 6: "fd00:2::2"}
BLOCKS = "action block"


def policed(version):
    """What policies for one of two guests make of packets; of the other one's they make nothing."""
    src, other, here, far = (one[version] for one in (GUEST, OTHERS, ROUTER_AT, FAR))
    hops = "its hop limit is 1" if version == 6 else "its TTL is 1"
    return {
        "forwarded": Way("a", src, far, "XFRM_POLICY", f"dir fwd {BLOCKS}"),
        "TTL": Way("a", src, far, "XFRM_POLICY", f"dir fwd {BLOCKS}", ttl=1),
        "MTU": Way("a", src, far, "XFRM_POLICY", f"dir fwd {BLOCKS}", size=1422, whole=True),
        "UDP": Way("a", src, here, "XFRM_POLICY", f"dir in {BLOCKS}", port=9, verdict=PASSED),
        "UDP, a socket": Way("a", src, here, "XFRM_POLICY", f"dir in {BLOCKS}", verdict=PASSED),
        "TCP": Way("a", src, here, "XFRM_POLICY", f"dir in {BLOCKS}", port=9, protocol=6, verdict=PASSED),
        "another guest's": Way("a", other, far, "", verdict=PASSED),
        "another guest's TTL": Way("a", other, far, "IP_INHDR", hops, ttl=1),
        "another guest's, here": Way("a", other, here, "", verdict=PASSED),
        "another guest's, no socket": Way("a", other, here, "NO_SOCKET", "port-unreachable", port=9,
            verdict=PASSED),
    }  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
def test_policies_of_ipsec(network, tmp_path, backend, version):
    """They come before TTL and MTU, and before a socket is looked for; asked alone, nothing tells of them."""
    every = "::/0" if version == 6 else "0.0.0.0/0"
    for direction in ("fwd", "in"):
        network.ip(
            None, f"xfrm policy add src {GUEST[version]} dst {every} dir {direction} {BLOCKS}"
        )
    # Else its address is asked for first.
    network.ip(None, f"neigh replace {OTHERS[version]} lladdr 02:00:00:00:00:77 dev to-a")
    ways = policed(version)
    numbered = dict(enumerate(ways.values(), 20000))
    found = recorded(network, backend, tmp_path / "t.db", numbered, "--drops", "no")
    wrong = []
    for (number, way), name in zip(numbered.items(), ways, strict=True):
        end = found[number].end
        told = (found[number].verdict, end.reason if end else "")
        if told != (way.verdict, way.reason) or (end and not (end.sure and way.words in end.text)):
            wrong.append((name, told, end))
    assert not wrong, "\n".join(map(str, wrong))


def test_policies_that_came_and_went(network, tmp_path, backend):
    """They are in one list of two: nothing is sure."""
    ways = {20000: Way("a", A4, B4, "XFRM_POLICY", ttl=1)}
    network.ip(None, f"xfrm policy add src {A4} dst 0.0.0.0/0 dir fwd {BLOCKS}")
    loaded(network, backend)
    path = tmp_path / "t.db"
    child = recorder.start(network, "--backend", backend, "--drops", "no", "-o", path, notes=True)
    send(network, ways)
    network.ip(None, "xfrm policy flush")
    recorder.stop(child)
    end = found_in(path, ways)[20000].end
    assert not end.sure
    assert end.text.startswith("perhaps IPsec's policies would have dropped it: ")
    assert "its TTL is 1" in end.text


SNAT = {
    "legacy": "*nat\n-A POSTROUTING -o to-b -p udp -j SNAT --to-source {to}\nCOMMIT\n",
    "nft": "table inet t {{ chain c {{ type nat hook postrouting priority 100;\n"
           "oif to-b meta nfproto {proto} udp dport 5000 snat {ip} to {to};\n}}\n}}\n",
}  # fmt: skip


@pytest.mark.parametrize("drops", ["yes", "no"])
@pytest.mark.parametrize("version", [4, 6])
def test_no_port_is_left(network, tmp_path, backend, version, drops):
    """Of two connections that SNAT gives the same address and port the second one is refused."""
    src, far = GUEST[version], FAR[version]
    to = "[fd00:2::1]:5999" if version == 6 else "10.0.2.1:5999"
    family, proto = f"ipv{version}", f"ipv{version}"
    if backend == "legacy":
        network.restore(None, family, SNAT["legacy"].format(to=to))
    else:
        ip = "ip6" if version == 6 else "ip"
        network.run(["nft", "-f", "-"], stdin=SNAT["nft"].format(to=to, proto=proto, ip=ip))
    path = tmp_path / "t.db"
    child = recorder.start(
        network, "udp", "--backend", backend, "--drops", drops, "-o", path, notes=True
    )
    ways = {20000 + number: Way("a", src, far, "", labelled=False) for number in range(2)}
    send(network, ways)
    recorder.stop(child)
    found = found_in(path, ways)
    # What the kernel drops is rewritten already; then nothing tells the two of IPv6 apart.
    if drops == "yes" and version == 4:
        first, second = found[20000], found[20001]
        assert (first.verdict, first.ambiguous, first.end) == ("ACCEPT", False, None)
        assert (second.verdict, second.end.reason, second.end.sure) == (
            "DISCARDED",
            "NETFILTER_DROP",
            True,
        )
        return
    for one in found.values():
        assert one.ambiguous
        assert one.reason.endswith("(insert_failed), perhaps this one: no free port was left")


TOLD, PERHAPS = ("NEIGH_FAILED", True), ("NEIGH_FAILED", False)


def waiting(version, case):
    """Packets for one neighbour that is not there and one for another that is: what is sent, and what is told.

    Their own quotes, or equal ones. By their source ports.
    """
    src, gone, far = (GUEST[version], ("10.0.2.77", "fd00:2::77")[version == 6], FAR[version])
    own = case == "own"
    there = dict.fromkeys(range(20000, 20004), gone) | {20004: far}
    sent = []
    for port, dst in there.items():
        body = frames.summed(frames.udp(port, 5000, b"to %d" % port), src, dst)
        name = port - 19000 if own else 0
        known = {"flow": name} if version == 6 else {"identity": name, "offset": 0x4000}
        make = frames.ipv6 if version == 6 else frames.ipv4
        sent.append(make(*body, src=src, dst=dst, **known))
    return sent, there


@pytest.mark.parametrize("case", ["own", "equal"])
@pytest.mark.parametrize("version", [4, 6])
def test_several_wait_for_a_neighbour(network, tmp_path, backend, version, case):
    """Each that an error quotes is told; where it quotes too little to tell them apart, that is said.

    nf_tables dumps 12 bytes of a quote: of IPv4 its identification and the addresses' checksum, of IPv6 the
    flow label and half of the source's network.
    """
    loaded(network, backend)
    sent, there = waiting(version, case)
    path = tmp_path / "t.db"
    child = recorder.start(network, "--backend", backend, "-o", path, notes=True)
    network.ip(
        None, f"neigh replace {FAR[version]} lladdr {frames.mac(network, 'b', 'eth0')} dev to-b"
    )
    ends = frames.mac(network, None, "to-a"), frames.mac(network, "a", "eth0")
    told = json.dumps(frames.framed(sent, *ends))
    network.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], "a", stdin=told)
    gone = there[20000]
    recorder.until(lambda: "FAILED" in network.run(["ip", "neigh", "show", gone]).stdout)
    recorder.stop(child)
    found = {one.header.get("sport"): one for one in recorder.packets(path) if one.in_ == "to-a"}
    assert {found[port].verdict for port in there} == {"ACCEPT"}
    ends = {
        port: found[port].end and (found[port].end.reason, found[port].end.sure) for port in there
    }
    apart = backend == "legacy" or case == "own"
    dead, alive = (TOLD, None) if apart else (PERHAPS, PERHAPS if version == 6 else None)
    assert ends == {port: alive if dst == FAR[version] else dead for port, dst in there.items()}


DNAT = {
    "legacy": "*nat\n-A PREROUTING -d {to} -j DNAT --to-destination {far}\nCOMMIT\n"
              "*filter\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n",
    "nft": "table inet t {{ chain c {{ type nat hook prerouting priority -100;\n"
           "{ip} daddr {to} dnat {ip} to {far};\n}}\n"
           "chain f {{ type filter hook forward priority 0; meta l4proto udp accept;\n}}\n}}\n",
}  # fmt: skip


@pytest.mark.parametrize("drops", ["yes", "no"])
@pytest.mark.parametrize("version", [4, 6])
def test_an_equal_packet_went_on_before(network, tmp_path, backend, version, drops):
    """What DNAT makes of one that dies in routing is quoted of it, and seen of those before it alone."""
    to, src, far = ("10.9.77.7", "fd99::77")[version == 6], GUEST[version], FAR[version]
    if backend == "legacy":
        network.restore(None, f"ipv{version}", DNAT["legacy"].format(to=to, far=far))
    else:
        ip = "ip6" if version == 6 else "ip"
        network.run(["nft", "-f", "-"], stdin=DNAT["nft"].format(to=to, far=far, ip=ip))
    body = frames.summed(frames.udp(20000, 53, bytes(1340)), src, to)
    known = {"flow": 77} if version == 6 else {"identity": 77, "offset": 0x4000}
    sent = (frames.ipv6 if version == 6 else frames.ipv4)(*body, src=src, dst=to, **known)
    ends = frames.mac(network, None, "to-a"), frames.mac(network, "a", "eth0")
    told = json.dumps(frames.framed([sent], *ends))
    path = tmp_path / "t.db"
    child = recorder.start(network, "--backend", backend, "--drops", drops, "-o", path, notes=True)
    for mtu in (1400, 1400, 1300, 1400):
        network.ip(None, f"link set to-b mtu {mtu}")
        network.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], "a", stdin=told)
    recorder.stop(child)
    found = [one.end for one in recorder.packets(path) if one.header.get("sport") == 20000]
    dead = found.pop(2)
    assert found == [None] * 3
    assert dead.reason == "PKT_TOO_BIG"
    assert dead.sure or drops == "no"


# What routing says, and what the kernel's word is where it is another one
KERNELS = {
    "BLACKHOLE": ("NOT_SPECIFIED",), "UNREACHABLE": ("NOT_SPECIFIED",), "PROHIBIT": ("NOT_SPECIFIED",),
    "NOT_JOINED": ("NOT_SPECIFIED",), "SOURCE_ROUTE": ("NOT_SPECIFIED",),
}  # fmt: skip


@pytest.mark.parametrize("drops", ["yes", "no"], ids=["seen", "asked"])
def test_the_kernels_word_is_explained(network, tmp_path, backend, drops):
    """With the route, rule or setting that it does not tell; where it is asked, as far as it can say."""
    ways = dict(enumerate(WAYS.values(), 20000))
    found = recorded(network, backend, tmp_path / "t.db", ways, "--drops", drops)
    wrong, said = [], 0
    for (number, way), name in zip(ways.items(), WAYS, strict=True):
        end = found[number].end
        if way.verdict != "UNKNOWN" or not way.reason or (drops == "no" and end.source != "asked"):
            continue
        said += 1
        evidence = way.words.partition(": ")[2] or way.words
        words = (
            ""
            if evidence.startswith("there is no route") and "RPFILTER" not in way.reason
            else evidence
        )
        reasons = KERNELS.get(way.reason, (way.reason,)) if drops == "yes" else (end.reason,)
        source = "seen" if drops == "yes" else "asked"
        if (
            (end.source, end.sure) != (source, True)
            or end.reason not in reasons
            or words not in end.text
        ):
            wrong.append((name, end))
    assert not wrong, "\n".join(map(str, wrong))
    assert said >= 20


SERVE = """
import socket
for family, own in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    ear = socket.socket(family, socket.SOCK_DGRAM)
    ear.bind((own, 0))
    asking = socket.socket(family, socket.SOCK_DGRAM)
    asking.connect(ear.getsockname()[:2])
    asking.send(b"asked")
    said, who = ear.recvfrom(9)
    ear.sendto(b"told", who)
    assert asking.recv(9) == b"told"
    door = socket.socket(family, socket.SOCK_STREAM)
    door.bind((own, 0))
    door.listen()
    guest = socket.create_connection(door.getsockname()[:2])
    door.accept()[0].send(b"welcome")
    assert guest.recv(9) == b"welcome"
    for one in (ear, asking, guest, door):
        one.close()
"""


def test_sockets_that_come_and_go(network, tmp_path, backend):
    """They are in no list, and yet what they took is not told as lost."""
    loaded(network, backend)
    path = tmp_path / "t.db"
    command = [
        *IPTREC,
        "record",
        "--backend",
        backend,
        "-o",
        str(path),
        "--",
        sys.executable,
        "-c",
        SERVE,
    ]
    assert network.popen(command, stderr=subprocess.DEVNULL).wait(timeout=60) == 0
    found = [one for one in recorder.packets(path) if one.in_ == "lo"]
    assert {one.header["proto"] for one in found} >= {"udp", "tcp"}
    assert [(one.number, one.end) for one in found if one.end] == []


OLD_FRIENDS = """
import socket, sys
guests = []
for family, own in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    door = socket.socket(family, socket.SOCK_STREAM)
    door.bind((own, 0))
    door.listen()
    guests += [socket.create_connection(door.getsockname()[:2]), door.accept()[0]]
    door.close()
print("ready", flush=True)
for line in sys.stdin:
    for guest, host in zip(guests[::2], guests[1::2]):
        for one, other in ((guest, host), (host, guest)):
            one.send(b"still here")
            assert other.recv(99) == b"still here"
    print("said", flush=True)
"""


def test_a_connection_whose_listener_is_gone(network, tmp_path, backend):
    """What it took is not told as lost: nobody listens, and yet there is a socket."""
    loaded(network, backend)
    path = tmp_path / "t.db"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    old = network.popen([sys.executable, "-c", OLD_FRIENDS], **pipes)
    assert old.stdout.readline() == "ready\n"
    child = recorder.start(network, "tcp", "--backend", backend, "-o", path, notes=True)
    old.stdin.write("go\n")
    old.stdin.flush()
    assert old.stdout.readline() == "said\n"
    recorder.stop(child)
    found = recorder.packets(path)
    assert len(found) >= 16
    assert [(one.number, one.header, one.end) for one in found if one.end] == []
