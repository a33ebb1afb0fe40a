"""Whose drop it was where packets are alike, or copied: the living are not blamed, the dead are told."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest
from command import IPTREC
from frames import framed, ipv4, ipv6, mac, summed, udp
from recorder import packets
from routers import between

pytestmark = pytest.mark.live
RULES = "*mangle\n{}COMMIT\n*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\nCOMMIT\n"
FAMILIES = ("ipv4", "ipv6")
NET = {"ipv4": "10.0.{}.{}", "ipv6": "fd00:{}::{}"}
PORT = 4000  # of the source, from there on one a packet
COUNT = 12
EVERYBODY = "ff:ff:ff:ff:ff:ff"
# No room for 150 bytes: whatever is sent by the interface dies.
SHUT = "tc qdisc add dev {} root tbf rate 8kbit burst 100 limit 100"
# What is sent from a host: frames, as JSON in the first argument.
SEND = """
import json, socket, sys, time
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
for frame in json.loads(sys.argv[1]):
    out.send(bytes.fromhex(frame))
    time.sleep(0.01)
"""
# Who hears datagrams come in by an interface; says their source ports when its standard input ends.
HEAR = """
import socket, sys
eyes = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
eyes.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
eyes.bind(("eth0", 0))
print("ready", flush=True)
sys.stdin.read()
eyes.setblocking(False)
try:
    while True:
        frame, (_, _, kind, _, _) = eyes.recvfrom(2000)
        at = 18 if frame[12:14] == b"\\x81\\0" else 14
        at, protocol = (at + 20, frame[at + 9]) if frame[at] >> 4 == 4 else (at + 40, frame[at + 6])
        if protocol == 17 and kind != socket.PACKET_OUTGOING:
            print(int.from_bytes(frame[at : at + 2], "big"))
except BlockingIOError:
    pass
"""


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def router(lab):
    """A router among three hosts: h1, h2, h3 at v1, v2, v3. It knows its neighbours."""
    between(lab, 3)
    for net in (1, 2, 3):
        known(lab, f"h{net}", f"v{net}", net)
    return lab


def known(lab, host, device, net):
    """The router's neighbour ``host``, by that device."""
    for family in FAMILIES:
        there, at = NET[family].format(net, 2), mac(lab, host, "eth0")
        lab.ip(None, f"neighbour replace {there} lladdr {at} dev {device}")


def datagram(family, dst, number=0, data=b"x", **more):
    """A datagram of h1; ``number``: by which it is known."""
    src = NET[family].format(1, 2)
    protocol, body = summed(udp(PORT + number, 53, data + b"%d" % number), src, dst)
    return {"ipv4": ipv4, "ipv6": ipv6}[family](protocol, body, src=src, dst=dst, **more)


def recorded(router, path, backend, sent, *, to=None, wait="", drops="yes"):
    """The packets of a recording while h1 sends. ``wait``: what the router does after that (shell)."""
    at, of = mac(router, "h1", "eth0"), to or mac(router, None, "v1")
    enter = ["nsenter", "--net=/run/netns/h1", sys.executable, "-c", SEND]
    command = [*IPTREC, "record", "-q", "--drops", drops, "--backend", backend, "-o", str(path)]
    router.run(
        [*command, "--", "sh", "-c", f'"$@"{wait}', "-", *enter, json.dumps(framed(sent, of, at))]
    )
    return [
        one
        for one in packets(path)
        if one.header["src"] == NET[one.family].format(1, 2) and one.header["proto"] == "udp"
    ]


def hearing(lab, host):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = lab.popen([sys.executable, "-c", HEAR], host, **pipes)
    assert child.stdout.readline() == "ready\n"
    return child


def heard(child):
    """The numbers of datagrams that came."""
    found, _ = child.communicate(timeout=10)
    return Counter(int(one) - PORT for one in found.split())


def told(found):
    """Verdict, and of the end its reason and whether it is sure."""
    return [
        (one.verdict, *((one.end.reason, one.end.sure) if one.end else [None])) for one in found
    ]


ELSEWHERE = {"ipv4": "203.0.113.9", "ipv6": "2001:db8:9::9"}


@pytest.mark.parametrize("drops", ["yes", "no"])
def test_the_dead_and_one_that_has_the_buffer_of_them(router, tmp_path, backend, family, drops):
    """Equal packets have no route until there is one: the kernel's id is of a buffer, which is used again."""
    router.restore(None, family, RULES.format(""), backend)
    gone = datagram(family, ELSEWHERE[family], data=b"the same")
    at, of = mac(router, "h1", "eth0"), mac(router, None, "v1")
    enter = ["nsenter", "--net=/run/netns/h1", sys.executable, "-c", SEND]
    add = ["ip", "route", "add", ELSEWHERE[family], "via", NET[family].format(2, 2)]
    once_more = [shlex.join(one) for one in (add, [*enter, json.dumps(framed([gone], of, at))])]
    wait = "; ".join(["", *once_more])
    found = recorded(router, tmp_path / "t.db", backend, [gone] * COUNT, wait=wait, drops=drops)
    assert {one.ambiguous for one in found} == {False}
    dead = "UNKNOWN" if drops == "no" else "DISCARDED"
    assert [one.verdict for one in found] == [dead] * COUNT + ["ACCEPT"]
    assert {one.end.reason for one in found[:-1]} == {"IP_INNOROUTES"}
    assert found[-1].end is None


# Sockets, the first one with room for little; then, the source ports of what each has got.
LISTEN = """
import ipaddress, json, socket, struct, sys
group, rooms = sys.argv[1], json.loads(sys.argv[2])
address = ipaddress.ip_address(group)
index = struct.pack("I", socket.if_nametoindex("v1"))
six = address.version == 6
sockets = []
for room in rooms:
    one = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    one.bind(("", 53))
    if address.is_multicast and six:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + index)
    elif address.is_multicast:
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address.packed + bytes(4) + index)
    one.setblocking(False)
    sockets.append(one)
print("ready", flush=True)
input()
for one in sockets:
    got = []
    try:
        while True:
            got.append(one.recvfrom(2000)[1][1])
    except BlockingIOError:
        print(json.dumps(got), flush=True)
"""
CASTS = {
    "broadcast": ("10.0.1.255", EVERYBODY),
    "own broadcast": ("10.0.1.200", EVERYBODY),
    "group": ("239.9.9.9", "01:00:5e:09:09:09"),
    "group6": ("ff15::9", "33:33:00:00:00:09"),
}


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("rooms", [(1, 1 << 20), (1,)], ids=["two sockets", "one"])
def test_sockets_of_many(router, tmp_path, backend, cast, rooms):
    """One that is full drops its own copy of each datagram; where it is the only one, the datagram."""
    to, link = CASTS[cast]
    family = "ipv6" if ":" in to else "ipv4"
    router.restore(None, family, RULES.format(""), backend)
    router.ip(None, "address add 10.0.1.1/25 brd 10.0.1.200 dev v1")
    command = [sys.executable, "-c", LISTEN, to, json.dumps(rooms)]
    ears = router.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert ears.stdout.readline() == "ready\n"
    sent = [datagram(family, to, one, bytes(600)) for one in range(COUNT)]
    found = recorded(router, tmp_path / "t.db", backend, sent, to=link)
    first, *others = map(json.loads, ears.communicate("\n", timeout=10)[0].splitlines())
    assert [len(one) for one in others] == [COUNT] * (len(rooms) - 1)
    sure = len(rooms) == 1
    full = ("DISCARDED" if sure else "ACCEPT", "SOCKET_RCVBUFF", sure)
    assert 0 < len(first) < COUNT
    assert Counter(told(found)) == {("ACCEPT", None): len(first), full: COUNT - len(first)}


TEES = {  # what sends copies of what comes in by v1
    "legacy": "-A PREROUTING -i v1 -p udp -j TEE --gateway {0}\n",
    "nft": "-A PREROUTING -i v1 -p udp -j TEE --gateway {0}\n",
    "native": "table {1} t {{ chain c {{ type filter hook prerouting priority mangle; "
    "iif v1 udp dport 53 dup to {0} device v3; }}; }}",
}
# No answer comes from the gateway, or there is no room for what is sent there.
GONE = {"no answer": (99, "NEIGH_FAILED"), "no room": (2, "QDISC_DROP")}
ASKED = "; while ip neigh show {} | grep -q INCOMPLETE; do sleep 0.05; done"


def tee(router, way, family, gateway):
    """Copies go to the gateway from now on; the backend that records them."""
    backend = "nft" if way == "native" else way
    rules = "" if way == "native" else TEES[way].format(gateway)
    router.restore(None, family, RULES.format(rules), backend)
    if way == "native":
        table = TEES[way].format(gateway, {"ipv4": "ip", "ipv6": "ip6"}[family])
        router.run(["nft", "-f", "-"], stdin=table)
    return backend


@pytest.mark.parametrize(
    ("way", "death", "net"),
    [
        *((way, *how) for way in ("legacy", "nft") for how in (("no answer", 2), ("no room", 1))),
        ("native", "no room", 2),
    ],
)
def test_a_copy_to_a_dead_gateway(router, tmp_path, family, way, death, net):
    """TEE's copy dies, the packet arrives; of copies that are told, that is told."""
    host, reason = GONE[death]
    if (family, death) == ("ipv6", "no answer"):
        reason = "NOT_SPECIFIED"
    gateway = NET[family].format(3, host)
    router.run(SHUT.format("v3").split())
    backend = tee(router, way, family, gateway)
    to = NET[family].format(net, net)  # h2, or the router
    ears = router.popen(
        [sys.executable, "-c", LISTEN, to, json.dumps([1 << 20])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert ears.stdout.readline() == "ready\n"
    far = hearing(router, "h2")
    more = (
        {"offset": 0x4000} if family == "ipv4" else {}
    )  # as TEE's copies are: not to be fragmented
    sent = [datagram(family, to, one, bytes(200), **more) for one in range(COUNT)]
    path = tmp_path / "t.db"
    found = recorded(router, path, backend, sent, wait=ASKED.format(gateway))
    arrived = heard(far) if net == 2 else ears.communicate("\n", timeout=10)[0].count(",") + 1
    assert arrived == (dict.fromkeys(range(COUNT), 1) if net == 2 else COUNT)
    own = [one for one in found if one.steps[0].in_ == "v1"]
    assert told(own) == [("ACCEPT", None)] * COUNT
    copies = [one for one in found if one.steps[0].in_ != "v1"]
    assert told(copies) == [("DISCARDED", reason, True)] * COUNT


LOW = "ip address flush dev {0}; ip address add 10.0.2.1/24 dev {1}; ip address add fd00:2::1/64 dev {1} nodad"
BRIDGE = "ip link add br0 type bridge ageing_time 0 mcast_snooping 0; ip link set br0 up; "
TWO_PORTS = BRIDGE + "for one in v2 v3; do ip link set $one master br0; done; "
VLAN = "ip link add link {} name br0 type vlan id 7; ip link set br0 up; "
BOND = (
    "ip link add br0 type bond mode {}; ip link set br0 up; "
    "for one in v2 v3; do ip link set $one down; ip link set $one master br0; done; "
)
STACKS = {  # what lies above v2, which interface is shut, and who hears of what is sent then
    "macvlan": (
        "ip link add link v2 name br0 type macvlan mode bridge; ip link set br0 up; ",
        "v2",
        None,
    ),
    "vlan": (VLAN.format("v2"), "v2", None),
    "vlan over a bridge": (TWO_PORTS.replace("br0", "br1") + VLAN.format("br1"), "v3", "h2"),
    "one port": (BRIDGE + "ip link set v2 master br0; ", "v2", None),
    "two ports": (TWO_PORTS, "v3", "h2"),
    "two ports, first": (TWO_PORTS, "v2", "h3"),
    "bond": (BOND.format("active-backup"), "v2", None),
    "bond, broadcast": (BOND.format("broadcast"), "v3", "h2"),
}


@pytest.mark.parametrize("stack", STACKS)
def test_a_device_below(router, tmp_path, backend, family, stack):
    """What dies there is the packet, unless the device above sends copies: then it may be one of them."""
    script, shut, host = STACKS[stack]
    done = router.run(["sh", "-ec", script + LOW.format("v2", "br0")], check=False)
    if "Unknown device type" in done.stderr:
        pytest.skip(f"this kernel has no such device: {stack}")
    assert done.returncode == 0, done.stderr
    router.settle()
    known(router, "h2", "br0", 2)
    router.restore(None, family, RULES.format(""), backend)
    router.run(SHUT.format(shut).split())
    far = hearing(router, host or "h2")
    sent = [datagram(family, NET[family].format(2, 2), one, bytes(200)) for one in range(COUNT)]
    found = recorded(router, tmp_path / "t.db", backend, sent)
    assert heard(far) == (dict.fromkeys(range(COUNT), 1) if host else {})
    sure, perhaps = ("DISCARDED", "QDISC_DROP", True), ("ACCEPT", "QDISC_DROP", False)
    if host:
        assert told(found) == [perhaps] * COUNT
    else:  # a bridge learns by the first one that it has one port alone
        assert told(found)[1:] == [sure] * (COUNT - 1)


@pytest.mark.parametrize("rules", [RULES.format(""), "*raw\nCOMMIT\n"], ids=["all", "raw alone"])
def test_a_copy_by_egress(router, tmp_path, backend, family, rules):
    """nf_tables' egress sends a copy by another interface, where it dies."""
    table = """table netdev t { chain c { type filter hook egress device "v2" priority 0;
        udp dport 53 dup to "v3"; }; }"""
    router.restore(None, family, rules, backend)
    router.run(["nft", "-f", "-"], stdin=table)
    router.run(SHUT.format("v3").split())
    far = hearing(router, "h2")
    sent = [datagram(family, NET[family].format(2, 2), one, bytes(200)) for one in range(COUNT)]
    found = recorded(router, tmp_path / "t.db", backend, sent)
    assert heard(far) == dict.fromkeys(range(COUNT), 1)
    assert {one[1:] for one in told(found)} == {("QDISC_DROP", False)}


# Forwards one group from v1 to v2 and v3.
FORWARD = """
import socket, struct, sys
router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
router.setsockopt(socket.IPPROTO_IP, 200, 1)  # MRT_INIT
for number in range(3):  # MRT_ADD_VIF
    here = socket.inet_aton(f"10.0.{number + 1}.1")
    router.setsockopt(socket.IPPROTO_IP, 202, struct.pack("=HBBI4s4s", number, 0, 1, 0, here, bytes(4)))
ends = socket.inet_aton("10.0.1.2"), socket.inet_aton("239.9.9.9")
entry = struct.pack("=4s4sH32s18x", *ends, 0, bytes([0, 1, 1]).ljust(32, b"\\0"))
router.setsockopt(socket.IPPROTO_IP, 204, entry)  # MRT_ADD_MFC
print("ready", flush=True)
sys.stdin.read()
"""
PASSED = {  # rules, and what is told of the packets by the interface that each leaves by
    "all": (
        RULES.format(""),
        {"v2": ("ACCEPT", None), "v3": ("DISCARDED", "QDISC_DROP", True)},
    ),
    "raw alone": ("*raw\nCOMMIT\n", {None: ("QDISC_DROP", False)}),
}


@pytest.mark.parametrize("passed", PASSED)
def test_a_multicast_that_is_forwarded(router, tmp_path, backend, passed):
    """Of the copies that rules tell each has its end; where none is told, one may have died."""
    rules, expected = PASSED[passed]
    router.restore(None, "ipv4", rules, backend)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    daemon = router.popen([sys.executable, "-c", FORWARD], **pipes)
    assert daemon.stdout.readline() == "ready\n"
    router.run(SHUT.format("v3").split())
    far = hearing(router, "h2")
    to, link = CASTS["group"]
    sent = [datagram("ipv4", to, one, bytes(200)) for one in range(COUNT)]
    found = recorded(router, tmp_path / "t.db", backend, sent, to=link)
    daemon.communicate()
    assert heard(far) == dict.fromkeys(range(COUNT), 1)
    ends = ((one.steps[-1].out, end) for one, end in zip(found, told(found), strict=True))
    counted = Counter((out, end[-len(expected[out]) :]) for out, end in ends)
    assert counted == dict.fromkeys(expected.items(), COUNT)


# Sends datagrams to a socket here, which gets them and is closed with all unread.
UNREAD = """
import socket
for number in range(12):
    ear, out = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
    ear.bind(("::1", 0))
    out.sendto(b"%d" % number, ear.getsockname())
    ear.recv(9, socket.MSG_PEEK)
    ear.close()
    out.close()
"""


def test_a_socket_that_is_closed(lab, tmp_path, backend):
    """What lies in it has arrived."""
    lab.restore(None, "ipv6", RULES.format(""), backend)
    path = tmp_path / "t.db"
    command = [
        *IPTREC,
        "record",
        "-q",
        "--drops",
        "yes",
        "--backend",
        backend,
        "-o",
        str(path),
        "udp",
    ]
    lab.run([*command, "--", sys.executable, "-c", UNREAD])
    assert told(packets(path)) == [("ACCEPT", None)] * 24


@pytest.mark.parametrize("way", ["legacy", "nft"])
def test_an_answer_about_the_packet_or_its_copy(router, tmp_path, family, way):
    """The packet dies at its neighbour, TEE's copy lives: what an error quotes is in both of them."""
    backend = tee(router, way, family, NET[family].format(2, 2))
    router.restore(None, family, "*filter\n-F\nCOMMIT\n", backend)  # no hook tells where they leave
    there = NET[family].format(3, 99)
    ear = hearing(router, "h2")
    sent = [datagram(family, there, one) for one in range(COUNT)]
    found = recorded(router, tmp_path / "t.db", backend, sent, drops="no", wait=ASKED.format(there))
    assert heard(ear) == Counter(range(COUNT))
    copies = [one for one in found if one.in_ is None]
    assert len(copies) == COUNT
    assert not any(one.end and one.end.sure for one in copies)
    assert not any(one.verdict == "DISCARDED" for one in copies)
    assert {one.end.reason for one in found if one.end} <= {"NEIGH_FAILED"}


# Whose socket is read when a file is there, in a way; another file is made then.
READ = """
import os, select, socket, sys, time
way, go, done = sys.argv[1:]
here = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
here.bind(("::", 53))
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.01)
if way == "recv":
    try:
        print(len(here.recv(2000, socket.MSG_DONTWAIT)))
    except BlockingIOError:
        print("nothing")
else:
    poll = select.poll()
    poll.register(here, select.POLLIN)
    print(poll.poll(0) or "nothing")
open(done, "w").close()
"""


@pytest.mark.parametrize("way", ["recv", "poll"])
def test_a_checksum_that_who_reads_finds_bad(router, tmp_path, backend, family, way):
    """Of a long datagram it is computed when a program wants it, which may be much later (net/ipv4/udp.c)."""
    router.restore(None, family, RULES.format(""), backend)
    go, done = tmp_path / "go", tmp_path / "done"
    pipe = {"stdout": subprocess.PIPE, "text": True}
    child = router.popen([sys.executable, "-c", READ, way, str(go), str(done)], None, **pipe)
    assert child.stdout.readline() == "ready\n"
    src, dst = (NET[family].format(1, host) for host in (2, 1))
    body = summed(udp(PORT, 53, b"z" * 300), src, dst, bad=True)
    sent = [{"ipv4": ipv4, "ipv6": ipv6}[family](*body, src=src, dst=dst)]
    wait = f"; sleep 0.5; touch {go}; until [ -e {done} ]; do sleep 0.05; done"
    found = recorded(router, tmp_path / "t.db", backend, sent, wait=wait)
    assert child.communicate(timeout=10)[0] == "nothing\n"
    assert told(found) == [("DISCARDED", "UDP_CSUM", True)]
    assert found[0].end.text == "a bad checksum of UDP"


@pytest.mark.parametrize("many", [4, 60])
@pytest.mark.parametrize("apart", ["payloads", "destinations"])
def test_behind_nat(router, tmp_path, backend, family, apart, many):
    """Their source is another one when they die; their first bytes are equal, nothing identifies them."""
    nat = "*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -o v2 -j MASQUERADE\nCOMMIT\n"
    router.restore(None, family, RULES.format("") + nat, backend)
    alive, dead = NET[family].format(2, 2), NET[family].format(2, 99)
    src, sent = NET[family].format(1, 2), []
    for number in range(many):
        dst, data = dead if number % 2 else alive, b"z" * 20
        data += b"%02d" % (number if apart == "payloads" else 0)
        body = summed(udp(PORT + number, 53, data), src, dst)
        sent.append(
            {"ipv4": partial(ipv4, identity=0), "ipv6": ipv6}[family](*body, src=src, dst=dst)
        )
    ear = hearing(router, "h2")
    found = recorded(router, tmp_path / "t.db", backend, sent, wait=ASKED.format(dead))
    assert heard(ear).total() == many // 2
    reason = {"ipv4": "NEIGH_FAILED", "ipv6": "NOT_SPECIFIED"}[family]
    assert told(found) == [("ACCEPT", None), ("DISCARDED", reason, True)] * (many // 2)
