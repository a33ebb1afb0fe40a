"""Who sends what: of every protocol and family, to where the rules look, from everybody."""

from __future__ import annotations

import functools
import ipaddress
import random
import re

from real_hosts import network, numbered

_V4 = re.compile(r"(?<![\w.:])(\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?)(?![\w.])")
_V6 = re.compile(r"(?<![\w.:])((?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:/\d{1,3})?)(?![\w.:])")
_PORTS = re.compile(r"(?:dport|dports|ports?)\W+([\d, :{}-]+)|[\d\]]:(\d{2,5})\b| \. (\d{2,5})\b")
_SERVICES = (  # protocol and port, and maybe an address in front
    re.compile(r"(?:([0-9a-f.:]+) \. )?(tcp|udp) \. (\d+)"),
    re.compile(r"-A \S+ (?:.*-d ([0-9a-f.:]+)/\d+ )?.*-p (tcp|udp) .*--dports? (\d+)"),
    re.compile(r"(?:ip6? daddr ([0-9a-f.:]+) )?(tcp|udp) dport (\d+)"),
)
_HEARD = ipaddress.ip_address("224.0.0.251")  # by the host, on eth0: see receiver.py
_FLAGS = (2, 2, 2, 2, 2, 2, 16, 4, 1, 18, 0, 0x29)  # most are SYN


class Plan:
    """``count`` packets for the hosts of a lab, None being the host of the rules.

    ``rules``: the text in which addresses and ports are looked for. ``packets``: host -> its packets;
    ``described``: number -> what it is.
    """

    def __init__(self, lab, containers, rules, count, seed=1):
        self._random = random.Random(seed)  # noqa: S311 - to be repeated
        self._own = _addresses(lab, None)
        self._hosts = {
            name: _addresses(lab, name) for name in (network.WAN, network.LAN, *containers)
        }
        routes = ("ip", "route", "show", "default")
        self._confined = {name for name in self._hosts if not lab.run(list(routes), name).stdout}
        self._links = [
            one.network for some in network.addresses(lab, None).values() for one in some
        ]
        self._asked = list(_networks(rules))
        self._ports = sorted(_ports(rules)) or [53]
        self._services = [found.groups() for one in _SERVICES for found in one.finditer(rules)]
        self._flows = {}
        self.described = {}
        self.packets = {name: [] for name in (None, *self._hosts)}
        names = [None, network.WAN, network.LAN, *containers]
        weights = [3, 8, 4, *(5 / len(containers) for _ in containers)]
        for number, name in enumerate(self._random.choices(names, weights, k=count)):
            self._add(number, name)

    def _add(self, number, name):
        """A packet; every fifth of a host goes where an earlier one of it went."""
        again = name in self._flows and self._chance(0.2)
        flow = self._flows[name] if again else self._flow(name)
        if self._chance(0.3):
            self._flows[name] = flow
        protocol, source, target, ports = flow
        what = f"{protocol} {source}:{ports[0]} > {target}:{ports[1]}"
        self.described[number] = f"{name or 'host'}: {what}"
        one = numbered.packet(number, *flow, self._random.choice(_FLAGS))
        self.packets[name].append(one)

    def _flow(self, name):
        """Protocol, source, target, ports: those of a rule together, or as it happens."""
        versions = {one.version for one in self._hosts.get(name, self._own)}
        version = 6 if 6 in versions and self._chance(0.35) else 4
        source = self._source(name, version)
        protocol = self._random.choices(("udp", "tcp", "icmp"), (50, 35, 15))[0]
        target, ports = self._target(name, source), (self._port(0.5), self._port(0.7))
        if self._services and name not in self._confined and self._chance(0.3):
            address, protocol, port = self._random.choice(self._services)
            ports = ports[0], int(port)
            own = _of(self._own, version)
            there = ipaddress.ip_address(address) if address else self._random.choice(own)
            if there.version == version and self._answered(name, there):
                target = there
        return protocol, source, target, ports

    def _source(self, name, version):
        """One's own, or what is behind a neighbour: what rules ask for, above all."""
        behind, asked = self._behind(name, version)
        if behind is None or self._chance(0.4):
            return self._random.choice(_of(self._hosts.get(name, self._own), version))
        return self._within(self._random.choice(asked) if asked and self._chance(0.6) else behind)

    @functools.cache  # noqa: B019 - a plan lives as long as its run
    def _behind(self, name, version):
        """The network behind a neighbour, and what rules ask for that answers reach there."""
        lan = ipaddress.ip_network(network.BEHIND_LAN[version == 6])
        if name == network.LAN:
            return lan, [one for one in self._strange(version) if one.subnet_of(lan)]
        if name == network.WAN:
            outside = ipaddress.ip_network(network.OUTSIDE[version == 6])
            return outside, [one for one in self._strange(version) if not one.overlaps(lan)]
        return None, []

    def _strange(self, version):
        """Networks that rules ask for, and that are not the host's."""
        links = _of(self._links, version)
        for one in _of(self._asked, version):
            if one.prefixlen >= 8 and _carried(one[0]) and not any(map(one.overlaps, links)):
                yield one

    def _target(self, name, source):
        """Nobody sends to himself, but the host of the rules, over its loopback."""
        own, elsewhere, asked = self._targets(name, source.version)
        if name in self._confined:  # an internal network
            net = next(one for one in self._links if source in one)
            return self._random.choice(
                [one for one in (*own, *elsewhere) if one in net and one != source]
            )
        outside = self._within(ipaddress.ip_network(network.OUTSIDE[source.version == 6]))
        pools = own, elsewhere, asked, [outside]
        one = self._random.choice(self._random.choices(pools, (30, 25, 35, 10))[0] or [outside])
        if isinstance(one, ipaddress.IPv4Network | ipaddress.IPv6Network):
            one = self._within(one)
        if one != source and self._answered(name, one):
            return one
        link = self._linked(one)
        there = [each for each in (*own, *elsewhere) if link and each in link and each != source]
        return self._random.choice(there or [outside])

    def _answered(self, name, address):
        """Whether somebody else takes what is sent there, or answers for it."""
        known = address in self._own or any(address in some for some in self._hosts.values())
        if address in self._hosts.get(name, ()) or (self._linked(address) and not known):
            return False
        return _carried(address) or (name == network.WAN and address == _HEARD)

    @functools.cache  # noqa: B019
    def _targets(self, name, version):
        """The addresses of the host, of the others, and what rules ask for."""
        elsewhere = [one for host, some in self._hosts.items() if host != name for one in some]
        asked = [one for one in _of(self._asked, version) if one.prefixlen]
        return _of(self._own, version), _of(elsewhere, version), asked

    @functools.cache  # noqa: B019
    def _linked(self, address):
        """The host's network that an address is in: who is not there does not answer."""
        return next((net for net in self._links if address in net), None)

    def _port(self, asked):
        if self._chance(asked):
            return self._random.choice(self._ports)
        return self._random.randrange(1, 65536)

    def _chance(self, share):
        return self._random.random() < share

    def _within(self, net):
        if net.num_addresses == 1:
            return net[0]
        return net[self._random.randrange(1, min(net.num_addresses - 1, 1 << 32))]


def _addresses(lab, host):
    return [one.ip for some in network.addresses(lab, host).values() for one in some]


def _of(some, version):
    return [one for one in some if one.version == version]


def _carried(address):
    """Whether routers carry it: else it dies before any rule that says so."""
    if address.is_loopback or address.is_multicast or address.is_link_local:
        return False
    return address.version == 6 or address.packed[0] not in {0, *range(240, 256)}


def _networks(rules):
    for text in (*_V4.findall(rules), *_V6.findall(rules)):
        try:
            yield ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue  # a time, a counter


def _ports(rules):
    """Ports that rules name, ends and middles of ranges."""
    for found in _PORTS.finditer(rules):
        for word in re.findall(r"\d+(?:[:-]\d+)?", found[1] or found[2] or found[3]):
            ends = [int(one) for one in re.split("[:-]", word)]
            if max(ends) < 65536 and min(ends) > 0:
                yield from (*ends, sum(ends) // len(ends))
