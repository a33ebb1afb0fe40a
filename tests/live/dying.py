"""Ways to die behind the rules, on a router between h1 (10.0.1.2) and h2 (10.0.2.2); each sent for real.

``python dying.py`` runs on the router: it reads the ways as JSON, and for each one changes the router, sends
the frames from h1 with one after them for a socket of its own, waits for that one, and changes the router back.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

from frames import framed, ipv4, ipv6, summed, tcp, udp

ROUTER4, ROUTER6, FAR4, FAR6, SRC4, SRC6 = (
    "10.0.1.1", "fd00:1::1", "10.0.2.2", "fd00:2::2", "10.0.1.2", "fd00:1::2",
)  # fmt: skip
ALIVE, HELD, BLOCKED = (
    7,
    77,
    71,
)  # ports of sockets: one that waits, one that nobody reads, and one that may not
IDS, PORTS, CONTROLS = 1000, 20000, 5000
SYN, DF = 2, 0x4000


@dataclass
class Way:
    """What is done to the router (``do``, ``undo``: shell), what is sent, and what the kernel says then.

    ``make``: from a number to the packet. ``times``: how many are sent; the last one counts.
    """

    make: object
    reason: str
    function: str
    do: str = ""
    undo: str = ""
    times: int = 1
    to: str = ""  # the link's address; the router's


def _body(number, src, dst, dport, kind, data, *, bad):
    """A datagram, or a SYN; ``bad``: with a wrong checksum."""
    body = kind(PORTS + number, dport, data if kind is udp else SYN)
    return summed(body, src, dst, bad=bad)


def four(dst=ROUTER4, src=SRC4, *, dport=9, kind=udp, data=b"x", bad=False, **more):
    def make(number):
        body = _body(number, src, dst, dport, kind, data, bad=bad)
        return ipv4(*body, src=src, dst=dst, identity=IDS + number, **more)

    return make


def six(dst=ROUTER6, src=SRC6, *, dport=9, kind=udp, data=b"x", bad=False, **more):
    def make(number):
        body = _body(number, src, dst, dport, kind, data, bad=bad)
        return ipv6(*body, src=src, dst=dst, **more)

    return make


def _ping(number):
    """An echo request with a wrong checksum."""
    return ipv4(
        1, struct.pack("!BBHHH", 8, 0, 1, number, 1), src=SRC4, dst=ROUTER4, identity=IDS + number
    )


def sysctl(name, value, before=0):
    """Shell commands that set and set back."""
    path = f"/proc/sys/net/{name}"
    return {"do": f"echo {value} >{path}", "undo": f"echo {before} >{path}"}


def route(kind, net, family=""):
    """A route that refuses."""
    return {
        "do": f"ip {family} route add {kind} {net}",
        "undo": f"ip {family} route del {kind} {net}",
    }


def block(direction, dst, family=""):
    """A policy of IPsec that forbids."""
    policy = f"ip {family} xfrm policy {{}} dir {direction} dst {dst}"
    return {"do": f"{policy.format('add')} action block", "undo": policy.format("del")}


def mtu(of):
    return {"do": f"ip link set {of} mtu 1280", "undo": f"ip link set {of} mtu 1500"}


# Who dies of very many: by the kernel's word, and what is wrong with it. 2001:db8:7::/64 is a blackhole.
CROWDS = {
    4: {
        "IP_INNOROUTES": {"dst": "203.0.113.9"}, "IP_INHDR": {"ttl": 1}, "IP_LOCALNET": {"src": "127.0.0.5"},
        "UDP_CSUM": {"dst": ROUTER4, "bad": True}, "NO_SOCKET": {"dst": ROUTER4},
    },
    6: {
        "IP_INNOROUTES": {"dst": "2001:db8:9::9"}, "IP_INHDR": {"ttl": 1}, "NO_SOCKET": {"dst": ROUTER6},
        "UDP_CSUM": {"dst": ROUTER6, "bad": True}, "NOT_SPECIFIED": {"dst": "2001:db8:7::9"},
    },
}  # fmt: skip


def fate(version, number):
    """Why one of very many dies: one in a hundred does, in five ways; the others do not."""
    return [*CROWDS[version]][number // 100 % 5] if number % 100 == 0 else None


def of_crowd(version, number):
    """One of very many. It is known by IPv4's identification or IPv6's flow label, and its source port."""
    far, ours = {4: (FAR4, SRC4), 6: (FAR6, SRC6)}[version]
    how = {"dst": far, "src": ours, "bad": False} | CROWDS[version].get(fate(version, number), {})
    ends, bad = {name: how.pop(name) for name in ("src", "dst")}, how.pop("bad")
    body = summed(udp(PORTS + (number >> 16), 9), **ends, bad=bad)
    if version == 6:
        return ipv6(*body, **ends, flow=number & 0xFFFF, **how)
    return ipv4(*body, **ends, identity=number & 0xFFFF, **how)


def number_in_crowd(header):
    """Which one it is."""
    return (header["sport"] - PORTS) << 16 | header.get("id", header.get("flow_label"))


CORE = "ip_rcv_finish_core"
# Linux 6.12 has all words but these (include/net/dropreason-core.h): its ip_route_input_slow and
# fib_validate_source return EINVAL, of which ip_rcv_finish_core tells nothing. They came in November 2024, with
# 5b92112acd8e and its neighbours.
SINCE_6_13 = ("IP_LOCALNET", "IP_LOCAL_SOURCE", "IP_INVALID_SOURCE")
# Who frees it where Linux is older than 6.12: 6.1 jumps to these at the end of the function.
BEFORE_6_12 = {
    "ip6_pkt_discard": "ip6_pkt_drop",
    "ip6_pkt_prohibit": "ip6_pkt_drop",
    "__dev_queue_xmit": "kfree_skb_list_reason",
}
WAYS = {
    # Of them the neighbours come first: it takes three seconds to know.
    "neighbour": Way(four("10.0.2.99"), "NEIGH_FAILED", "neigh_invalidate"),
    "neighbour6": Way(six("fd00:2::99"), "NOT_SPECIFIED", "neigh_invalidate"),
    "rp_filter": Way(
        four(FAR4, src=FAR4), "IP_RPFILTER", CORE, **sysctl("ipv4/conf/v1/rp_filter", 1)
    ),
    "rp_filter loose": Way(
        four(FAR4, src="203.0.113.7"), "IP_RPFILTER", CORE, **sysctl("ipv4/conf/v1/rp_filter", 2)
    ),
    "martian source": Way(four(src="127.0.0.5"), "IP_LOCALNET", CORE),
    "own source": Way(four(src="10.0.2.1"), "IP_LOCAL_SOURCE", CORE),
    "multicast source": Way(four(src="224.0.0.9"), "IP_INVALID_SOURCE", CORE),
    "loopback from outside": Way(four("127.0.0.1"), "IP_LOCALNET", CORE),
    "no route": Way(four("203.0.113.9"), "IP_INNOROUTES", "ip_error"),
    "no route6": Way(six("2001:db8:9::9"), "IP_INNOROUTES", "ip6_pkt_discard"),
    "blackhole": Way(
        four("198.51.100.9"), "NOT_SPECIFIED", "ip_error", **route("blackhole", "198.51.100.0/24")
    ),
    "unreachable": Way(
        four("198.51.100.9"), "NOT_SPECIFIED", "ip_error", **route("unreachable", "198.51.100.0/24")
    ),
    "prohibit": Way(
        four("198.51.100.9"), "NOT_SPECIFIED", "ip_error", **route("prohibit", "198.51.100.0/24")
    ),
    "blackhole6": Way(
        six("2001:db8:7::9"), "NOT_SPECIFIED", "dst_discard_out", **route("blackhole", "2001:db8:7::/64", "-6")
    ),
    "prohibit6": Way(
        six("2001:db8:7::9"), "IP_INNOROUTES", "ip6_pkt_prohibit", **route("prohibit", "2001:db8:7::/64", "-6")
    ),
    "forwarding off": Way(
        four(FAR4), "IP_INADDRERRORS", "ip_error", **sysctl("ipv4/conf/v1/forwarding", 0, 1)
    ),
    "forwarding off6": Way(
        six(FAR6), "IP_INADDRERRORS", "ip6_forward", **sysctl("ipv6/conf/all/forwarding", 0, 1)
    ),
    "TTL": Way(four(FAR4, ttl=1), "IP_INHDR", "ip_forward"),
    "hop limit": Way(six(FAR6, ttl=1), "IP_INHDR", "ip6_forward"),
    "MTU": Way(four(FAR4, data=bytes(1400), offset=DF), "PKT_TOO_BIG", "ip_forward", **mtu("v2")),
    "MTU6": Way(six(FAR6, data=bytes(1400)), "PKT_TOO_BIG", "ip6_forward", **mtu("v2")),
    "no socket": Way(four(), "NO_SOCKET", "__udp4_lib_rcv"),
    "no socket6": Way(six(), "NO_SOCKET", "__udp6_lib_rcv"),
    "no socket of TCP": Way(four(kind=tcp), "NO_SOCKET", "tcp_v4_rcv"),
    "no socket of TCP6": Way(six(kind=tcp), "NO_SOCKET", "tcp_v6_rcv"),
    "checksum": Way(four(dport=ALIVE, bad=True), "UDP_CSUM", "__udp4_lib_rcv"),
    "checksum6": Way(six(dport=ALIVE, bad=True), "UDP_CSUM", "__udp6_lib_rcv"),
    "checksum of TCP": Way(four(kind=tcp, bad=True), "TCP_CSUM", "tcp_v4_rcv"),
    "checksum of TCP6": Way(six(kind=tcp, bad=True), "TCP_CSUM", "tcp_v6_rcv"),
    "checksum of ICMP": Way(_ping, "ICMP_CSUM", "icmp_rcv"),
    "full buffer": Way(
        four(dport=HELD, data=bytes(1200)), "SOCKET_RCVBUFF", "udp_queue_rcv_one_skb", times=8
    ),
    "full buffer6": Way(
        six(dport=HELD, data=bytes(1200)), "SOCKET_RCVBUFF", "udpv6_queue_rcv_one_skb", times=8
    ),
    "protocol": Way(
        lambda number: ipv4(200, b"what is this?", src=SRC4, dst=ROUTER4, identity=IDS + number),
        "IP_NOPROTO", "ip_local_deliver_finish",
    ),
    "broadcast": Way(four("10.0.1.255"), "NOT_SPECIFIED", "__udp4_lib_rcv", to="ff:ff:ff:ff:ff:ff"),
    "multicast": Way(four("239.1.2.3"), "NOT_SPECIFIED", CORE, to="01:00:5e:01:02:03"),
    "source route": Way(
        four(FAR4, options=bytes([131, 7, 4, 10, 0, 2, 9, 0])), "NOT_SPECIFIED", CORE
    ),
    "MTU of the route6": Way(
        six("2001:db8:7::9", data=bytes(1400)), "NOT_SPECIFIED", "ip6_fragment",
        do="ip -6 route add 2001:db8:7::/64 via fd00:2::2 mtu 1280", undo="ip -6 route del 2001:db8:7::/64",
    ),
    "queue": Way(
        four(FAR4), "QDISC_DROP", "__dev_queue_xmit",
        do="tc qdisc replace dev v2 root pfifo limit 0", undo="tc qdisc del dev v2 root",
    ),
    "policy of IPsec": Way(four(FAR4), "XFRM_POLICY", "ip_forward", **block("fwd", "10.0.2.0/24")),
    "policy of IPsec6": Way(
        six(FAR6), "NOT_SPECIFIED", "ip6_forward", **block("fwd", "fd00:2::/64", "-6")
    ),
    "policy of IPsec, in": Way(
        four(dport=BLOCKED), "XFRM_POLICY", "udp_queue_rcv_one_skb",
        **block("in", f"10.0.1.1/32 proto udp dport {BLOCKED}"),
    ),
}  # fmt: skip


def order(of, at):
    """What the router is asked to do. ``of``, ``at``: link addresses of h1 and of the router."""
    ways = []
    for number, way in enumerate(WAYS.values()):
        packets = [way.make(number + 100 * more) for more in reversed(range(way.times))]
        alive = [four(dst, dport=ALIVE)(CONTROLS + number) for dst in (ROUTER4, FAR4)]
        last, beside = framed(alive, at, of)
        ways.append([way.do, framed(packets, way.to or at, of), way.undo, last, beside])
    return ways


def main():
    """Be the router."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours, theirs = os.open("/proc/self/ns/net", os.O_RDONLY), os.open("/run/netns/h1", os.O_RDONLY)
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # frames come in order
    assert libc.setns(theirs, 0) == 0
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind(("eth0", 0))
    assert libc.setns(ours, 0) == 0
    alive, held, _ = [listening(port) for port in (ALIVE, HELD, BLOCKED)]
    held.setblocking(False)
    for do, frames, undo, last, beside in json.load(sys.stdin):
        subprocess.run(["sh", "-ec", do], check=True)
        for frame in [*frames, last]:
            out.send(bytes.fromhex(frame))
        alive.recv(2048)
        while arrived(held):
            pass
        subprocess.run(["sh", "-ec", undo], check=True)
        out.send(bytes.fromhex(beside))
    for neighbour in ("10.0.2.99", "fd00:2::99"):
        while b"FAILED" not in subprocess.check_output(["ip", "neigh", "show", neighbour]):
            time.sleep(0.05)


def listening(port):
    """A socket with room for little."""
    found = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.bind(("::", port))
    found.settimeout(10)
    return found


def arrived(held):
    try:
        return held.recv(2048)
    except BlockingIOError:
        return b""


if __name__ == "__main__":
    main()
