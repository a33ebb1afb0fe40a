"""Packets of every protocol, both families, each with a number of its own, to where the rules look.

A number stands where both tracers dump it: in the first bytes behind the header of UDP and of an echo
request, in the sequence number of TCP.
"""

from __future__ import annotations

import ipaddress
import random
import re
import struct
import sys

from real_hosts import network

MAGIC = b"IPTR"
SEQUENCE = 0x5A << 24  # in front of TCP's 24 bits
_V4 = re.compile(r"(?<![\w.:])(\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?)(?![\w.])")
_V6 = re.compile(r"(?<![\w.:])((?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:/\d{1,3})?)(?![\w.:])")
_PORTS = re.compile(r"(?:dport|dports|ports?)\W+([\d, :{}-]+)|[\d\]]:(\d{2,5})\b| \. (\d{2,5})\b")
_Address = (ipaddress.IPv4Address, ipaddress.IPv6Address)
_HEARD = "224.0.0.251"  # on eth0
_FLAGS = (2, 2, 2, 2, 2, 2, 16, 4, 1, 18, 0, 0x29)  # most are SYN
SEND = """
import errno, socket, struct, sys, time
data, rate = open(sys.argv[1], "rb").read(), float(sys.argv[2])
outs = {}
for family, protocol in ((socket.AF_INET, socket.IPPROTO_RAW), (socket.AF_INET6, socket.IPPROTO_RAW)):
    outs[family] = out = socket.socket(family, socket.SOCK_RAW, protocol)
    out.setsockopt(socket.SOL_SOCKET, 32, 1 << 24)  # SO_SNDBUFFORCE
    out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
refused, at, sent, begun = {}, 0, 0, time.monotonic()
while at < len(data):
    length, = struct.unpack_from("!H", data, at)
    packet, at = data[at + 2 : at + 2 + length], at + 2 + length
    family = socket.AF_INET if packet[0] >> 4 == 4 else socket.AF_INET6
    to = packet[16:20] if family == socket.AF_INET else packet[24:40]
    try:
        outs[family].sendto(packet, (socket.inet_ntop(family, to), 0))
    except OSError as error:
        name = errno.errorcode[error.errno]
        refused[name] = refused.get(name, 0) + 1
    sent += 1
    if sent % 32 == 0:
        time.sleep(max(0, sent / rate - (time.monotonic() - begun)))
print(refused)
"""
RECEIVE = """
import array, signal, socket, struct, sys
number_of, seen = {6: 4, 17: 8, 1: 8, 58: 8}, array.array("I")
local = sys.argv[2] == "local"
ins = {}
def note(protocol, body):
    if protocol == 6 and body[4:5] == b"\\x5a":
        seen.append(int.from_bytes(body[5:8], "big"))
    elif body[8:12] == b"IPTR" and (protocol == 17 or body[:1] in (b"\\x08", b"\\x80")):
        seen.append(int.from_bytes(body[12:16], "big"))
def open_(*what):
    one = socket.socket(*what)
    one.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)  # SO_RCVBUFFORCE
    one.setblocking(False)
    return one
if local:
    for protocol in (1, 6, 17):
        ins[open_(socket.AF_INET, socket.SOCK_RAW, protocol)] = 4, protocol
    for protocol in (58, 6, 17):
        ins[open_(socket.AF_INET6, socket.SOCK_RAW, protocol)] = 6, protocol
    groups = [open_(socket.AF_INET, socket.SOCK_DGRAM), open_(socket.AF_INET6, socket.SOCK_DGRAM)]
    for group in ("224.0.0.251",):
        groups[0].setsockopt(0, socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(group) + struct.pack("=4si", bytes(4), socket.if_nametoindex("eth0")))
else:
    ins[open_(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))] = None, None
import select
poll = select.poll()
by_fd = {}
for one, kind in ins.items():
    poll.register(one, select.POLLIN)
    by_fd[one.fileno()] = one, *kind
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
def drain():
    for fd, _ in poll.poll(100):
        one, version, protocol = by_fd[fd]
        try:
            for _ in range(1000):
                packet, address = one.recvfrom(200)
                if version == 6:
                    note(protocol, packet)
                elif packet[:1] == b"\\x45" and (local or address[2] in (0, 1, 2)):
                    note(packet[9], packet[20:])
                elif packet[:1] and packet[0] >> 4 == 6 and address[2] in (0, 1, 2):
                    note(packet[6], packet[40:])
        except BlockingIOError:
            pass
print("ready", flush=True)
while not stopping:
    drain()
drain()
open(sys.argv[1], "wb").write(seen.tobytes())
"""


class Plan:
    """Who sends what: ``count`` packets for the hosts of a lab, None being the host of the rules.

    ``rules``: the text in which addresses and ports are looked for.
    """

    def __init__(self, lab, containers, rules, count, seed=1):
        self._random = random.Random(seed)  # noqa: S311 - to be repeated
        self._own = [one.ip for some in network.addresses(lab, None).values() for one in some]
        self._hosts = {
            name: [one.ip for some in network.addresses(lab, name).values() for one in some]
            for name in (network.WAN, network.LAN, *containers)
        }
        self._confined = {name for name in self._hosts if not lab.run(["ip", "route", "show", "default"], name).stdout}
        self._links = [one.network for some in network.addresses(lab, None).values() for one in some]
        self._asked = [*map(_net, _V4.findall(rules)), *map(_net, _V6.findall(rules))]
        self._asked = [one for one in self._asked if one is not None]
        self._ports = sorted(_ports(rules)) or [53]
        self._before = {}
        self.described = {}
        self.packets = {name: [] for name in (None, *self._hosts)}
        names = [None, network.WAN, network.LAN, *containers]
        weights = [3, 8, 4, *(5 / len(containers) for _ in containers)]
        for number, name in enumerate(self._random.choices(names, weights, k=count)):
            self.packets[name].append(self._packet(number, name))

    def _packet(self, number, name):
        """One packet; every fifth of a host goes where an earlier one of it went."""
        flow = self._before.get(name)
        if flow is None or self._random.random() > 0.2:
            flow = self._flow(name)
        if self._random.random() < 0.3:
            self._before[name] = flow
        protocol, source, target, sport, dport = flow
        flags = self._random.choice(_FLAGS)
        self.described[number] = f"{name or 'host'}: {protocol} {source}:{sport} > {target}:{dport}"
        return _build(number, protocol, source, target, sport, dport, flags)

    def _flow(self, name):
        version = 4 if self._random.random() < 0.65 else 6
        if all(one.version != version for one in self._hosts.get(name, self._own)):
            version = 10 - version
        protocol = self._random.choices(("udp", "tcp", "icmp"), (50, 35, 15))[0]
        source = self._source(name, version)
        port = self._random.choice(self._ports)
        dport = port if self._random.random() < 0.7 else self._random.randrange(1, 65536)
        sport = self._random.choice((self._random.choice(self._ports), self._random.randrange(1024, 65536)))
        return protocol, source, self._target(name, version, source), sport, dport

    def _source(self, name, version):
        own = [one for one in self._hosts.get(name, self._own) if one.version == version]
        outside = {network.WAN: network.OUTSIDE, network.LAN: network.BEHIND_LAN}.get(name)
        if outside and self._random.random() < 0.6:
            asked = [one for one in self._asked if one.version == version and self._from(one, name)]
            chosen = asked if asked and self._random.random() < 0.6 else map(ipaddress.ip_network, outside)
            return self._within(self._random.choice([one for one in chosen if one.version == version]))
        return self._random.choice(own)

    def _from(self, net, name):
        """Whether a source of this network comes from a neighbour, and answers go there."""
        behind = [ipaddress.ip_network(one) for one in network.BEHIND_LAN if (":" in one) == (net.version == 6)]
        if net.prefixlen < 8 or not _sendable(net.network_address) or any(net.overlaps(one) for one in self._links if one.version == net.version):
            return False
        lan = any(net.subnet_of(one) for one in behind)
        return lan if name == network.LAN else not any(net.overlaps(one) for one in behind)

    def _target(self, name, version, source):
        """Where to: nobody sends to himself, but the host of the rules, over its loopback."""
        elsewhere = [one for host, some in self._hosts.items() if host != name for one in some]
        self_ = self._hosts.get(name, [])
        outside = self._within(ipaddress.ip_network(network.OUTSIDE[version == 6]))
        known = {
            "own": [one for one in self._own if one.version == version],
            "elsewhere": [one for one in elsewhere if one.version == version],
            "asked": [one for one in self._asked if one.version == version and one.prefixlen],
        }
        if name in self._confined:  # an internal network
            net = next(one for one in self._links if source in one)
            return self._random.choice([one for some in known.values() for one in some if isinstance(one, _Address) and one in net])
        kind = self._random.choices(("own", "elsewhere", "asked", "outside"), (30, 25, 35, 10))[0]
        one = self._random.choice(known.get(kind) or [outside])
        one = self._within(one) if kind == "asked" and known["asked"] else one
        link = next((net for net in self._links if one in net), None)
        there = [each for each in (*known["own"], *known["elsewhere"]) if link and each in link]
        if one == source or one in self_ or (link and one not in there):  # nobody would answer for it
            return self._random.choice([each for each in there if each != source] or [outside])
        heard = name == network.WAN and str(one) == _HEARD
        return one if _sendable(one) or heard else outside

    def _within(self, net):
        if net.num_addresses == 1:
            return net.network_address
        return net[self._random.randrange(1, min(net.num_addresses - 1, 1 << 32))]


def _sendable(address):
    """Whether routers carry it: else it dies before any rule that says so."""
    if address.version == 4:
        return not (address.is_loopback or address.is_multicast or address.packed[0] in {0, *range(240, 256)})
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.packed[0] == 0)


def _net(text):
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _ports(rules):
    """Ports that rules name, ends and middles of ranges."""
    for found in _PORTS.finditer(rules):
        for word in re.findall(r"\d+(?:[:-]\d+)?", found[1] or found[2] or found[3]):
            ends = [int(one) for one in re.split("[:-]", word)]
            if max(ends) < 65536 and min(ends) > 0:
                yield from (*ends, sum(ends) // len(ends))


def _build(number, protocol, source, target, sport, dport, flags):
    """The packet from its IP header on."""
    four = source.version == 4
    mark = MAGIC + struct.pack("!I", number)
    if protocol == "udp":
        kind, body, at = 17, struct.pack("!HHHH", sport, dport, 16, 0) + mark, 6
    elif protocol == "tcp":
        acked = 1 if flags & 16 else 0
        kind, at = 6, 16
        body = struct.pack("!HHIIBBHHH", sport, dport, SEQUENCE | number, acked, 80, flags, 512, 0, 0)
    else:
        kind, at = (1, 2) if four else (58, 2)
        body = struct.pack("!BBHHH", 8 if four else 128, 0, 0, sport, dport) + mark
    pseudo = source.packed + target.packed + struct.pack("!II", len(body), kind)
    total = _checksum(body if kind == 1 else pseudo + body) or 0xFFFF
    body = body[:at] + struct.pack("!H", total) + body[at + 2 :]
    if four:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), number % 0xFFFF + 1, 0, 64, kind, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(body), kind, 64)
    return head + source.packed + target.packed + body


def _checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Receivers:
    """Who notes the numbers that arrive: behind the rules at every neighbour, behind INPUT at the host."""

    def __init__(self, lab, hosts, directory):
        self._children = []
        for host in (None, *hosts):
            path = directory / f"arrived-{host or 'host'}"
            where = "local" if host is None else "elsewhere"
            command = [sys.executable, "-c", RECEIVE, str(path), where]
            child = lab.popen(command, host, stdout=-1, text=True)
            assert child.stdout.readline() == "ready\n"
            self._children.append((child, path))

    def stop(self):
        """End them, and return the numbers that arrived."""
        numbers = bytearray()
        for child, path in self._children:
            child.terminate()
            child.communicate(timeout=60)
            numbers += path.read_bytes()
        return set(memoryview(numbers).cast("I"))


def send(lab, packets, directory, rate):
    """Send each host's packets, all hosts at once; return what the kernel refused, by host."""
    total = sum(map(len, packets.values()))
    senders = {}
    for host, some in packets.items():
        path = directory / f"send-{host or 'host'}"
        path.write_bytes(b"".join(struct.pack("!H", len(one)) + one for one in some))
        pace = max(1, rate * len(some) / total)
        command = [sys.executable, "-c", SEND, str(path), str(pace)]
        senders[host] = lab.popen(command, host, stdout=-1, text=True)
    return {host: child.communicate(timeout=600)[0].strip() for host, child in senders.items()}
