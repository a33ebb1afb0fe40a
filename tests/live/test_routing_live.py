"""Where a packet that comes in goes: by recorded routes, rules and settings as by the kernel itself.

The kernel answers RTM_GETROUTE with the interface that it would come in by: it looks up the way and checks the
source as it does for a packet.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import random
import sys
from dataclasses import replace

import pytest
from handmade import HandMade

from iptrec.context.arrival import fates
from iptrec.context.interfaces import Interfaces
from iptrec.context.routing_rules import Flow
from iptrec.context.world import Arrived
from iptrec.context.worlds import Worlds
from iptrec.recording.rows import Stream

pytestmark = pytest.mark.live

ROUNDS = int(os.environ.get("IPTREC_ROUNDS", "8"))
QUESTIONS = 400
LINKS = ("to-a", "to-b", "to-c")
ASK = """\
import base64, ipaddress, json, socket, struct, sys
from iptrec.kernel import links, netlink, sysctls
asking = netlink.connected(netlink.ROUTE)
lists = links.dumps() | {"sysctls": sysctls.settings(), "groups": sysctls.groups()}
index = dict((name, number) for number, name in socket.if_nameindex())
found = []
for src, dst, iif, mark, tos, protocol, sport, dport in json.loads(sys.stdin.read()):
    to = ipaddress.ip_address(dst)
    family, bits = (2, 32) if to.version == 4 else (10, 128)
    body = struct.pack("=BBBBBBBBI", family, bits, bits, tos, 0, 0, 0, 0, 0) + netlink.packed([
        (1, to.packed), (2, ipaddress.ip_address(src).packed), (3, struct.pack("=I", index[iif])),
        (16, struct.pack("=I", mark)), (27, bytes([protocol])), (28, struct.pack("!H", sport)),
        (29, struct.pack("!H", dport))])
    asking.send(netlink.message(26, netlink.REQUEST, body, sequence=1))
    answer = next(netlink.messages(asking.recv(65536)))
    if answer.kind == netlink.ERROR:
        found.append((answer.code, 0, 0))
    else:
        told = dict(netlink.attributes(answer.body[12:]))
        found.append((0, answer.body[7], struct.unpack("=I", told[4])[0]))
lists = {kind: base64.b64encode(content).decode() for kind, content in lists.items()}
print(json.dumps([lists, index, found]))
"""
ERRNO = {
    "IP_RPFILTER": (22, 18), "IP_LOCAL_SOURCE": (22,), "IP_INVALID_SOURCE": (22,), "IP_LOCALNET": (22,),
    "IP_INVALID_DEST": (22,), "BLACKHOLE": (22,), "IP_INADDRERRORS": (113,), "UNREACHABLE": (113,),
    "IP_INNOROUTES": (101,), "PROHIBIT": (13,), "NOT_JOINED": (22,),
}  # fmt: skip
LOCAL = (2, 3, 4, 5)  # RTN_LOCAL, BROADCAST, ANYCAST, MULTICAST


@pytest.fixture
def network(lab):
    """A router with three links; of the third it has no address of IPv4."""
    for number, name in enumerate("abc", 1):
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{number}.2/24", f"fd00:{number}::2/64", peer=f"to-{name}")
        if name != "c":
            lab.ip(None, f"address add 10.0.{number}.1/24 broadcast + dev to-{name}")
        lab.ip(None, f"address add fd00:{number}::1/64 dev to-{name}")
    lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
    lab.settle()
    return lab


class Made:
    """Routes, rules and settings by chance."""

    def __init__(self, chance):
        self.chance = chance

    def network(self, version):
        lengths = {4: (0, 8, 12, 16, 16, 20, 24, 24, 28, 32), 6: (0, 16, 32, 48, 64, 64, 96, 128)}
        start = ipaddress.ip_address(self.address(version))
        return str(
            ipaddress.ip_network((start.packed, self.chance.choice(lengths[version])), strict=False)
        )

    def address(self, version):
        chance = self.chance
        if version == 6:
            return chance.choice(
                (f"fd00:{chance.randint(1, 4)}::{chance.randint(0, 4)}", "fd99::1", "fd98:1:2:3::4",
                 f"2001:db8::{chance.randint(1, 3)}")
            )  # fmt: skip
        return chance.choice(
            (f"10.0.{chance.randint(0, 4)}.{chance.choice((1, 2, 3, 255))}", f"10.9.{chance.randint(0, 3)}.9",
             f"192.168.{chance.randint(0, 3)}.{chance.randint(1, 3)}", "172.16.5.5")
        )  # fmt: skip

    def way(self, version):
        link = self.chance.choice(LINKS)
        number = LINKS.index(link) + 1
        if self.chance.random() < 0.4:
            return f"dev {link}"
        gateway = f"10.0.{number}.2" if version == 4 else f"fd00:{number}::2"
        return f"via {gateway} dev {link}" + (" onlink" if link == "to-c" else "")

    def route(self, version):
        chance = self.chance
        table = chance.choice(("main", "main", "100", "101", "default"))
        words = f"route add {{}} {self.network(version)} table {table} metric {chance.choice((1, 5, 9))}"
        if version == 4 and chance.random() < 0.2:
            words += f" tos {chance.choice((4, 8, 16))}"
        if version == 6 and chance.random() < 0.15:
            words += f" from {self.network(6).replace('::/0', 'fd00::/16')}"
        kind = chance.choice(("", "", "", "", "blackhole", "unreachable", "prohibit", "throw"))
        if kind:
            return words.format(kind)
        if version == 4 and chance.random() < 0.1:
            return words.format("") + "".join(f" nexthop {self.way(4)}" for _ in range(2))
        return words.format("") + " " + self.way(version)

    def rule(self, version):
        chance = self.chance
        words = [
            "rule add",
            "not" * (chance.random() < 0.1),
            f"priority {chance.randint(1, 30) * 1000}",
        ]
        for probability, one in (
            (0.3, f"from {self.network(version)}"), (0.2, f"to {self.network(version)}"),
            (0.2, f"iif {chance.choice((*LINKS, 'gone0', 'lo'))}"),
            (0.2, f"fwmark {chance.randint(0, 3)}" + chance.choice(("", "/1", "/2"))),
            (0.1, "tos " + chance.choice(("8", "16"))), (0.1, "ipproto " + chance.choice(("udp", "tcp"))),
            (0.1, "sport 1000-1002"), (0.1, "dport 53"), (0.05, "uidrange 0-10"), (0.05, "oif to-a"),
        ):  # fmt: skip
            if chance.random() < probability:
                words.append(one)
        action = chance.choice(("table 100", "table 101", "table main", "blackhole", "prohibit",
                                "unreachable", "goto", "nop", "table 55"))  # fmt: skip
        if action == "goto":
            action = f"goto {chance.randint(20, 31) * 1000}"
        elif action.startswith("table") and chance.random() < 0.2:
            action += f" suppress_prefixlength {chance.choice((0, 8, 16))}"
        return " ".join([*filter(None, words), action])

    def question(self):
        chance = self.chance
        version = chance.choice((4, 4, 4, 6))
        src, dst = self.address(version), self.address(version)
        if version == 4 and chance.random() < 0.15:
            src = chance.choice(("127.0.0.5", "0.1.2.3", "224.0.0.5", "255.255.255.255", src))
        if version == 4 and chance.random() < 0.1:
            dst = chance.choice(("127.0.0.1", "255.255.255.255", "0.1.2.3", "240.0.0.1", "224.0.0.1",
                                 "224.9.9.9"))  # fmt: skip
        tos = chance.choice((0, 0, 4, 8, 16, 32, 40))
        return (src, dst, chance.choice(LINKS), chance.randint(0, 3), tos, chance.choice((6, 17)),
                chance.choice((1000, 1001, 2000)), chance.choice((53, 80)))  # fmt: skip

    def settings(self):
        for link in (*LINKS, "all"):
            for key, most in (
                ("rp_filter", 2),
                ("accept_local", 1),
                ("route_localnet", 1),
                ("src_valid_mark", 1),
            ):
                likely = self.chance.random() < (0.4 if key == "rp_filter" else 0.15)
                yield f"net/ipv4/conf/{link}/{key}", self.chance.randint(0, most) if likely else 0
        for link in LINKS:
            yield f"net/ipv4/conf/{link}/forwarding", int(self.chance.random() < 0.85)


def configure(lab, made, rules):
    """Some lines are refused: a route that is there already, or to nowhere."""
    for version in (4, 6):
        lines = [made.route(version) for _ in range(25)]
        lines += [made.rule(version) for _ in range(rules)]
        lab.run(["ip", f"-{version}", "-force", "-batch", "-"], stdin="\n".join(lines), check=False)
    text = "\n".join(f"echo {value} > /proc/sys/{path}" for path, value in made.settings())
    lab.run(["sh"], stdin=text)


def asked(lab, questions):
    """The lists, indexes of links, and the kernel's answers."""
    told = lab.run([sys.executable, "-c", ASK], stdin=json.dumps(questions)).stdout
    lists, index, answers = json.loads(told)
    recording = HandMade()
    recording.facts = replace(recording.facts, closed=True)
    recording.streams.append(
        Stream(
            2, 1, "rtnetlink", {"groups": ["link", "route"], "looked_at": ["routes", "ip-rules"]}
        )
    )
    for time in (100, 900):
        for kind, content in lists.items():
            recording.snapshot(kind, base64.b64decode(content), time)
    return recording, index, answers


def agrees(fate, answer, version):
    errno, kind, link = answer
    if fate.what == "dropped":
        return errno in ERRNO[fate.reason] if version == 4 else bool(errno)
    if errno:
        return False
    return kind in LOCAL if fate.what == "local" else (kind == 1 and link == fate.link)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_kernel_agrees(network, number):
    """What is said for sure is so; else what is so is among what is said."""
    chance = random.Random(number)  # noqa: S311
    made = Made(chance)
    configure(network, made, rules=(0, 6)[number % 2])
    questions = [made.question() for _ in range(QUESTIONS)]
    recording, index, answers = asked(network, questions)
    (*worlds,), sure = Worlds(recording, 1, Interfaces(recording, 1)).at((500, 500))
    assert sure
    assert len(worlds) == 1
    certain = 0
    wrong = []
    for question, answer in zip(questions, answers, strict=True):
        src, dst, iif, mark, tos, protocol, sport, dport = question
        to = ipaddress.ip_address(dst)
        flow = Flow(
            ipaddress.ip_address(src), to, index[iif], iif, mark, tos, protocol, sport, dport
        )
        found = fates(worlds[0], Arrived(flow, 64, 100, whole=False))
        if any(one.what == "unknown" for one in found):
            continue
        certain += len(found) == 1
        if not any(agrees(one, answer, to.version) for one in found):
            wrong.append((question, answer, found))
    assert not wrong, "\n".join(map(str, wrong[:5]))
    assert certain > len(questions) * 0.6, certain
