"""`iptrec why` of fib at each hook, for packets that came in by lo, from this host, or from a neighbour."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims
from test_why_random import counted_by_nft

pytestmark = pytest.mark.live
WAYS = [
    f"fib {of} {wanted}"
    for of in ("daddr", "saddr", "daddr . iif", "saddr . iif", "saddr . mark", "daddr . mark . iif")
    for wanted in ("oif exists", "oif missing", 'oifname "lo"', 'oifname "v1"', 'oif "v2"')
]  # fmt: skip
TYPES = [
    f"fib {of} type {kind}"
    for of in ("daddr", "saddr", "daddr . mark")
    for kind in ("local", "unicast", "broadcast", "multicast", "{ local, broadcast }", "!= local")
]
ARRIVED = [
    f"fib {of} . iif type {kind}" for of in ("daddr", "saddr") for kind in ("local", "unicast")
]
LEAVING = [one.replace("iif", "oif") for one in ARRIVED]
CHAINS = {
    "prerouting": WAYS + TYPES + ARRIVED,
    "input": WAYS + TYPES + ARRIVED,
    "forward": WAYS + TYPES + ARRIVED + LEAVING + [one.replace("iif", "oif") for one in WAYS],
    "output": TYPES + LEAVING,
    "postrouting": TYPES + LEAVING,
}
# What the host sends to itself, and to groups whose members it has.
SENT = """
import socket
def send(family, to, *options, protocol=socket.IPPROTO_UDP, data=b"x"):
    kind = socket.SOCK_DGRAM if protocol == socket.IPPROTO_UDP else socket.SOCK_RAW
    sender = socket.socket(family, kind, protocol)
    for one in options:
        sender.setsockopt(*one)
    sender.sendto(data, to)
four, six = socket.AF_INET, socket.AF_INET6
broadcast = socket.SOL_SOCKET, socket.SO_BROADCAST, 1
ping, ping6 = bytes.fromhex("0800f7ff00000000"), bytes.fromhex("8000000000000000")
for address in ("10.0.1.1", "10.0.2.1", "127.0.0.1", "127.9.9.9"):
    send(four, (address, 9))
    send(four, (address, 0), protocol=socket.IPPROTO_ICMP, data=ping)
for address in ("fd00:1::1", "::1"):
    send(six, (address, 9))
    send(six, (address, 0), protocol=socket.IPPROTO_ICMPV6, data=ping6)
send(four, ("10.0.1.255", 9), broadcast)
send(four, ("255.255.255.255", 9), broadcast, (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"v1"))
member = socket.socket(four, socket.SOCK_DGRAM)
group = socket.inet_aton("239.1.1.1") + socket.inet_aton("10.0.1.1")
member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
send(four, ("239.1.1.1", 9), (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.0.1.1")))
send(six, ("ff02::1", 9), (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("v1")))
server = socket.create_server(("10.0.1.1", 7))
client = socket.create_connection(("10.0.1.1", 7))
client.send(b"x")
here = socket.socket(four, socket.SOCK_DGRAM)
here.bind(("127.0.0.1", 7))
here.connect(("127.0.0.1", 6))
send(four, ("127.0.0.1", 7))
"""
UDP = frames.udp(9, 9)
NOBODY = "0.0.0.0"  # noqa: S104 - an address in a packet


def arriving():
    """From a neighbour: for this host, others, groups and nobody in particular; from where nobody is, too."""
    echo, body = frames.echo(), frames.tcp(9, 7, 2)
    for four in (UDP, echo, body):
        for dst in ("10.0.1.1", "10.0.2.2", "10.0.1.255", "255.255.255.255", "224.0.0.1"):
            yield frames.ipv4(*four, dst=dst)
        for src in ("10.0.2.9", "10.7.7.7", NOBODY):
            yield frames.ipv4(*four, src=src)
        yield frames.ipv4(*four, src=NOBODY, dst="255.255.255.255")
    for six in (UDP, body):
        for dst in ("fd00:1::1", "fd00:2::2", "ff02::1"):
            yield frames.ipv6(*six, dst=dst)
        for src in ("fd00:2::9", "fd07::7", "fe80::7"):
            yield frames.ipv6(*six, src=src)


@pytest.fixture
def router(lab):
    for host, name, net in (("h", "v1", 1), ("g", "v2", 2)):
        lab.host(host)
        lab.link(host, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=name)
        lab.ip(None, f"address add 10.0.{net}.1/24 brd + dev {name}")
        lab.ip(None, f"address add fd00:{net}::1/64 dev {name} nodad")
        for key in ("all", name):
            lab.sysctl(None, f"net/ipv4/conf/{key}/rp_filter", 0)
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
    lab.ip(None, "link set lo up")
    lab.settle()
    chains = "\n".join(
        f"chain {hook} {{ type filter hook {hook} priority 5; policy accept;\n"
        + "".join(f"{one} counter\n" for one in rules)
        + "}"
        for hook, rules in CHAINS.items()
    )
    taken = chains.splitlines()
    while True:  # older kernels take some at fewer hooks
        made = lab.run(
            ["nft", "-f", "-"], stdin="table inet t {\n" + "\n".join(taken) + "\n}\n", check=False
        )
        if made.returncode == 0:
            return lab
        refused = {int(one) - 2 for one in re.findall(r"/dev/stdin:(\d+):", made.stderr)}
        assert refused, made.stderr
        taken = [line for number, line in enumerate(taken) if number not in refused]


def test_judgements_are_the_kernels(router, tmp_path):
    path, sent = tmp_path / "t.db", tmp_path / "frames.json"
    ends = frames.mac(router, None, "v1"), frames.mac(router, "h", "eth0")
    sent.write_text(json.dumps(frames.framed([*arriving()], *ends)))
    enter = f"nsenter --net=/run/netns/h {sys.executable} -c '{frames.SEND}' {sent}"
    here = tmp_path / "here.py"
    here.write_text(SENT)
    command = ["sh", "-c", f"{sys.executable} {here}; {enter}"]
    before = counted_by_nft(router)
    router.run([*IPTREC, "record", "-q", "-o", str(path), "--backend", "nft", "--", *command])
    counted = counted_by_nft(router) - before
    said, hits, false = Counter(), Counter(), []
    for chain in CHAINS:
        for header, rule, matched, judgement in claims(path, ("inet t", chain)):
            if judgement.fits not in (None, matched):
                false.append((chain, rule.spec, judgement, header))
            said[chain, judgement.fits is not None] += 1
            hits["inet t", chain, rule.handle] += matched
    assert false == []
    assert hits <= counted  # neighbours go on telling each other that they are there
    shares = {
        chain: said[chain, True] / (said[chain, True] + said[chain, False]) for chain in CHAINS
    }
    assert min(shares.values()) >= 0.75, shares
    assert shares["prerouting"] >= 0.9 <= shares["forward"], shares
