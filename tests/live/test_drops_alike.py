"""Whose drop it was where packets are alike, or copied: the living are not blamed, the dead are told."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections import Counter

import pytest
from command import IPTREC
from frames import framed, ipv4, ipv6, mac, summed, udp
from recorder import packets
from rights import since

pytestmark = pytest.mark.live
RULES = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\nCOMMIT\n"
FAMILIES = ("ipv4", "ipv6")
NET = {"ipv4": "10.0.{}.{}", "ipv6": "fd00:{}::{}"}
HOLE = {"ipv4": "10.99.0.{}", "ipv6": "fd99::{}"}
PORT = 4000
# What is sent from a host: frames, as JSON in the first argument.
SEND = """
import json, socket, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
for frame in json.loads(sys.argv[1]):
    out.send(bytes.fromhex(frame))
    time.sleep(0.01)
"""


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def router(lab, backend):
    """A router among three hosts: h1, h2, h3 at v1, v2, v3. Its neighbours are known."""
    for net in (1, 2, 3):
        name = f"h{net}"
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"v{net}")
        lab.ip(None, f"address add 10.0.{net}.1/24 brd + dev v{net}")
        lab.ip(None, f"address add fd00:{net}::1/64 dev v{net}")
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        lab.sysctl(None, f"net/{setting}", 1)
    lab.settle()
    for family in FAMILIES:
        lab.restore(None, family, RULES, backend)
        known(lab, NET[family].format(2, 2), "v2")
    return lab


def known(lab, address, device, host="h2"):
    there = mac(lab, host, "eth0")
    lab.ip(None, f"neighbour replace {address} lladdr {there} dev {device}")


def packet(family, dst, sport=PORT, data=b"x", extension=b""):
    src = NET[family].format(1, 2)
    protocol, body = summed(udp(sport, 53, data), src, dst)
    if family == "ipv4":
        return ipv4(protocol, body, src=src, dst=dst)
    if extension:
        return ipv6(43, bytes([protocol]) + extension + body, src=src, dst=dst)
    return ipv6(protocol, body, src=src, dst=dst)


def recorded(router, path, backend, sent, *, to=None):
    """The packets of a recording that came in from h1 with UDP, or behind an extension header."""
    at, of = mac(router, "h1", "eth0"), to or mac(router, None, "v1")
    frames = json.dumps(framed(sent, of, at))
    enter = ["nsenter", "--net=/run/netns/h1", sys.executable, "-c", SEND, frames]
    command = [*IPTREC, "record", "-q", "--drops", "yes", "--backend", backend, "-o", str(path)]
    router.run([*command, "--", *enter])
    return [
        one
        for one in packets(path)
        if one.steps[0].in_ == "v1"
        and one.header["src"] == NET[one.family].format(1, 2)
        and one.header["proto"] in ("udp", None)  # behind an extension header
    ]


def told(found):
    """Verdict, and of the end its reason and whether it is sure."""
    return [
        (one.verdict, *((one.end.reason, one.end.sure) if one.end else (None,))) for one in found
    ]


def test_only_the_destination_differs(router, tmp_path, backend, family):
    """One of a pair is forwarded, the other one dies in a blackhole."""
    version = 6 if family == "ipv6" else 4
    hole = HOLE[family].format(0).removesuffix("0") + ("0/24" if version == 4 else "/64")
    router.ip(None, f"route add blackhole {hole}")
    sent = []
    for number in range(20):
        far = NET[family].format(2, 100 + number)
        known(router, far, "v2")
        sent += [packet(family, far), packet(family, HOLE[family].format(100 + number))]
    found = recorded(router, tmp_path / "t.db", backend, sent)
    assert told(found) == [("ACCEPT", None), ("DISCARDED", "NOT_SPECIFIED", True)] * 20


@since(6, 18, "the function that drops it")
def test_a_routing_header(router, tmp_path, backend):
    """What is forwarded does not die of what only this host's own can die of."""
    header = bytes([2, 4, 1, 0, 0, 0, 0]) + ipaddress.ip_address("fd00:3::2").packed
    ends = ("fd00:2::2", "fd00:1::1", "fd00:2::2")
    sent = [packet("ipv6", one, PORT + i, b"%d" % i, header) for i, one in enumerate(ends)]
    found = recorded(router, tmp_path / "t.db", backend, sent)
    assert told(found) == [
        ("ACCEPT", None), ("DISCARDED", "NOT_SPECIFIED", True), ("ACCEPT", None)
    ]  # fmt: skip


def test_a_copy_at_another_port_of_a_bridge(router, tmp_path, backend, family):
    """A bridge sends out of all ports what it knows no port for: one of them has no room."""
    router.ip(None, "link add br0 type bridge ageing_time 0")
    for device in ("v2", "v3"):
        router.ip(None, f"address flush dev {device}")
        router.ip(None, f"link set {device} master br0")
    router.ip(None, "link set br0 up")
    router.ip(None, "address add 10.0.2.1/24 dev br0")
    router.ip(None, "address add fd00:2::1/64 dev br0 nodad")
    far = NET[family].format(2, 2)
    known(router, far, "br0")
    router.run(
        [
            "tc",
            "qdisc",
            "add",
            "dev",
            "v3",
            "root",
            "tbf",
            "rate",
            "8kbit",
            "burst",
            "200",
            "limit",
            "300",
        ]
    )
    found = recorded(
        router, tmp_path / "t.db", backend,
        [packet(family, far, PORT + one, bytes(100)) for one in range(12)],
    )  # fmt: skip
    dropped = [one for one in found if one.end is not None]
    assert len(found) == 12
    assert len(dropped) > 5
    assert {*told(dropped)} == {("ACCEPT", "QDISC_DROP", False)}
    assert {one.end.text.partition(":")[0] for one in dropped} == {
        "perhaps none of its copies arrived; one was dropped"
    }
    assert not any(one.ambiguous for one in found)


# Sockets in a group by v1, the first one with room for two datagrams at most; then, how many each has got.
LISTEN = """
import ipaddress, json, socket, struct, sys
group, rooms = sys.argv[1], json.loads(sys.argv[2])
address = ipaddress.ip_address(group).packed
index = struct.pack("I", socket.if_nametoindex("v1"))
six = len(address) == 16
sockets = []
for room in rooms:
    one = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    one.bind(("", 53))
    if six:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address + index)
    else:
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address + bytes(4) + index)
    one.setblocking(False)
    sockets.append(one)
print("ready", flush=True)
input()
for one in sockets:
    got = 0
    try:
        while one.recv(2000):
            got += 1
    except BlockingIOError:
        print(got, flush=True)
"""
GROUPS = {"ipv4": ("239.9.9.9", "01:00:5e:09:09:09"), "ipv6": ("ff15::9", "33:33:00:00:00:09")}


@pytest.mark.parametrize(
    ("rooms", "sure"), [((1, 1 << 20), False), ((1,), True)], ids=["two sockets", "one"]
)
def test_sockets_of_a_group(router, tmp_path, backend, family, rooms, sure):
    """One that is full drops its own copy of each datagram; where it is the only one, the datagram."""
    group, link = GROUPS[family]
    command = [sys.executable, "-c", LISTEN, group, json.dumps(rooms)]
    ears = router.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert ears.stdout.readline() == "ready\n"
    sent = [packet(family, group, PORT + one, bytes(600)) for one in range(12)]
    found = recorded(router, tmp_path / "t.db", backend, sent, to=link)
    first, *others = map(int, ears.communicate("\n", timeout=10)[0].split())
    assert others == [12] * (len(rooms) - 1)
    verdict = "DISCARDED" if sure else "ACCEPT"
    expected = {("ACCEPT", None): first, (verdict, "SOCKET_RCVBUFF", sure): 12 - first}
    assert Counter(told(found)) == expected


NAT = "*nat\n-A POSTROUTING -o v2 -p udp -j SNAT --to-source {}\nCOMMIT\n"


def test_no_port_is_left(router, tmp_path, backend, family):
    """The second connection gets no port: dropped by connection tracking behind the rule."""
    to = "10.0.2.1:5999" if family == "ipv4" else "[fd00:2::1]:5999"
    router.restore(None, family, RULES + NAT.format(to), backend)
    sent = [packet(family, NET[family].format(2, 2), PORT + one, b"%d" % one) for one in range(4)]
    found = recorded(router, tmp_path / "t.db", backend, sent)
    assert told(found) == [("ACCEPT", None), *[("DISCARDED", "NETFILTER_DROP", True)] * 3]
