"""What a condition of iptables can look at, by match module and option.

What the packet, its interfaces and the addresses of the host say is judged as the kernel does
(net/netfilter/xt_*.c, ip_tables.c). Values are read as iptables-save prints them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.matching import ipsets
from iptrec.matching.facts import ROUTE_TYPES, Facts, protocol_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.matching.facts import Address

Test = Callable[[str, Facts], "bool | None"]
_IPV6: Final = 6
_NAMED_TYPES: Final = {  # as iptables-save may print them; numbers else
    "any": 255, "echo-reply": 0, "destination-unreachable": 3, "echo-request": 8, "time-exceeded": 11,
}  # fmt: skip


class Option(NamedTuple):
    """An option of a match.

    ``test``: whether a packet has what the value of the option asks for; None where it is not known.
    ``own``: what the packet has instead, as a reader knows it; None where there is nothing to say. ``hint``:
    what is known although it is not enough.
    """

    test: Test
    own: Callable[[Facts], object]
    hint: Callable[[str, Facts], str | None] = lambda _value, _facts: None


def _protocol(value: str, facts: Facts) -> bool | None:
    number = protocol_number(value)
    own = facts.header.get("proto")
    if number is None or own is None:
        return None
    return number == 0 or number == protocol_number(str(own))


def _network(name: str) -> Test:
    """An address with a mask, which need not be a prefix."""

    def test(value: str, facts: Facts) -> bool | None:
        wanted, _, mask = value.partition("/")
        try:
            own, net = (ipaddress.ip_address(one) for one in (facts.header[name], wanted))
            bits = own.max_prefixlen
            keep = (
                (1 << bits) - (1 << bits - int(mask or bits))
                if not mask or mask.isdigit()
                else int(ipaddress.ip_address(mask))
            )
        except (KeyError, ValueError, TypeError):
            return None
        return own.version == net.version and int(own) & keep == int(net) & keep

    return test


def _interface(read: Callable[[Facts], str | None]) -> Test:
    def test(value: str, facts: Facts) -> bool | None:
        name = read(facts) or ""
        return name.startswith(value[:-1]) if value.endswith("+") else name == value

    return test


def _range(read: Callable[[Facts], int | None], *, separator: str = ":") -> Test:
    """One number, or from and to."""

    def test(value: str, facts: Facts) -> bool | None:
        own = read(facts)
        low, _, high = value.partition(separator)
        if own is None or not low.isdigit() or not (high or low).isdigit():
            return None
        return int(low) <= own <= int(high or low)

    return test


def _ports(*names: str) -> Test:
    def test(value: str, facts: Facts) -> bool | None:
        ports = [facts.header.get(name) for name in names]
        if any(port is None for port in ports):
            return None
        spans = [one.partition(":") for one in value.split(",")]
        return any(
            int(low) <= port <= int(high or low)
            for port in ports
            for low, _, high in spans
            if port is not None and low.isdigit()
        )

    return test


def _addresses(name: str) -> Test:
    """``--src-range A-B``."""

    def test(value: str, facts: Facts) -> bool | None:
        low, _, high = value.partition("-")
        try:
            own, first, last = (
                ipaddress.ip_address(one) for one in (facts.header[name], low, high or low)
            )
        except (KeyError, ValueError, TypeError):
            return None
        if not own.version == first.version == last.version:
            return False
        return int(first) <= int(own) <= int(last)

    return test


def _tcp_flags(value: str, facts: Facts) -> bool | None:
    mask, _, wanted = value.partition(" ")
    if "flags" not in facts.header:
        return None
    own = set(facts.header["flags"].split(",")) - {""}
    every = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"}
    looked_at = every if mask == "ALL" else set(mask.split(",")) - {"NONE"}
    expected = every if wanted == "ALL" else set(wanted.split(",")) - {"NONE"}
    return own & looked_at == expected


def _icmp_type(value: str, facts: Facts) -> bool | None:
    kind, _, code = value.partition("/")
    number = _number(kind, _NAMED_TYPES)
    if number is None or "type" not in facts.header:
        return None
    if number == _NAMED_TYPES["any"]:
        return True
    own = facts.header["type"] == number
    return own and (not code or facts.header.get("code") == _number(code, {}))


def _mark(value: str, facts: Facts) -> bool | None:
    wanted, _, mask = value.partition("/")
    if facts.mark is None:
        return None
    try:
        return facts.mark & int(mask or "0xffffffff", 0) == int(wanted, 0)
    except ValueError:
        return None


def _address_type(name: str) -> Test:
    """``--dst-type LOCAL,...`` by the routes of the host's own addresses (xt_addrtype.c)."""

    def test(value: str, facts: Facts) -> bool | None:
        kinds, _, limited = value.partition(" ")
        try:
            address = ipaddress.ip_address(facts.header[name])
            wanted = {ROUTE_TYPES[one.lower()] for one in kinds.split(",")}
        except (KeyError, ValueError, TypeError):
            return None
        of = facts.in_ if limited == "--limit-iface-in" else facts.out
        if limited and of is None:
            return None
        if address.version == _IPV6:
            return _is_of_type6(address, wanted, of if limited else None, facts)
        found = _types4(address, of if limited else None, facts)
        answers = {one in wanted for one in found}
        return answers.pop() if len(answers) == 1 else None

    return test


def _types4(address: Address, interface: str | None, facts: Facts) -> Iterable[int]:
    """What an address of IPv4 may be to the host."""
    if address.is_multicast:
        return (ROUTE_TYPES["multicast"],)
    found = None if facts.fib is None else facts.fib.types(address, interface)
    return set(ROUTE_TYPES.values()) - {ROUTE_TYPES["multicast"]} if found is None else found


def _is_of_type6(
    address: Address, wanted: set[int], interface: str | None, facts: Facts
) -> bool | None:
    """Of IPv6 only what does not depend on more routes than the host's own addresses have."""
    if wanted == {ROUTE_TYPES["multicast"]}:
        return address.is_multicast
    if wanted == {ROUTE_TYPES["unicast"]}:
        return not address.is_multicast and not address.is_unspecified
    if wanted != {ROUTE_TYPES["local"]} or facts.fib is None:
        return None
    answers = {one in wanted for one in facts.fib.types(address, interface) or ()}
    return answers.pop() if len(answers) == 1 else None


def _in_set(value: str, facts: Facts) -> bool | None:  # noqa: ARG001
    """``--match-set NAME src,dst``: nobody tells when members come and go."""
    return None


def _seen_in_set(value: str, facts: Facts) -> str | None:
    """What the set had whenever it was looked at."""
    name, _, directions = value.partition(" ")
    if " " in directions:  # --return-nomatch
        return None
    found = {
        ipsets.contains(sets, name, directions.split(","), facts)
        for sets in facts.sets
        if name in sets
    }
    if found == {True}:
        return "the packet was in it when it was read"
    return "the packet was not in it when it was read" if found == {False} else None


def _mac(value: str, facts: Facts) -> bool | None:
    return None if facts.source_mac is None else facts.source_mac.lower() == value.lower()


def _compared(sign: str) -> Test:
    """``--ttl-eq``, ``--ttl-lt``, ``--ttl-gt`` and their like for IPv6."""

    def test(value: str, facts: Facts) -> bool | None:
        own = facts.header.get("ttl", facts.header.get("hop_limit"))
        if own is None or not value.isdigit():
            return None
        return bool({"=": own == int(value), "<": own < int(value), ">": own > int(value)}[sign])

    return test


def _fragment(_: str, facts: Facts) -> bool | None:
    """``-f``: second and further fragments."""
    return bool(facts.header.get("frag", 0))


def _number(text: str, names: dict[str, int]) -> int | None:
    if text in names:
        return names[text]
    return int(text) if text.isascii() and text.isdigit() else None


def _plain(name: str) -> Callable[[Facts], object]:
    """A field of the packet's header."""
    return lambda facts: facts.header.get(name)


def _nothing(_: Facts) -> None:
    """For an option that asks for more than one thing."""


def _own_mark(facts: Facts) -> str | None:
    return None if facts.mark is None else f"0x{facts.mark:x}"


_PORTS: Final = {
    "--sport": Option(_range(lambda facts: facts.header.get("sport")), _plain("sport")),
    "--dport": Option(_range(lambda facts: facts.header.get("dport")), _plain("dport")),
}
CORE: Final[dict[str, Option]] = {  # iptables' own, of no module
    "-p": Option(_protocol, _plain("proto")),
    "-s": Option(_network("src"), _plain("src")),
    "-d": Option(_network("dst"), _plain("dst")),
    "-i": Option(_interface(lambda facts: facts.in_), lambda facts: facts.in_ or "none"),
    "-o": Option(_interface(lambda facts: facts.out), lambda facts: facts.out or "none"),
    "-f": Option(_fragment, _nothing),
}
# Modules whose options nobody can judge afterwards are not here.
MODULES: Final[dict[str, dict[str, Option]]] = {
    "comment": {},
    "tcp": {**_PORTS, "--tcp-flags": Option(_tcp_flags, _plain("flags"))},
    "udp": _PORTS,
    "udplite": _PORTS,
    "sctp": _PORTS,
    "dccp": _PORTS,
    "icmp": {"--icmp-type": Option(_icmp_type, _plain("name"))},
    "icmp6": {"--icmpv6-type": Option(_icmp_type, _plain("name"))},
    "multiport": {
        "--sports": Option(_ports("sport"), _plain("sport")),
        "--dports": Option(_ports("dport"), _plain("dport")),
        "--ports": Option(_ports("sport", "dport"), _nothing),
    },
    "iprange": {
        "--src-range": Option(_addresses("src"), _plain("src")),
        "--dst-range": Option(_addresses("dst"), _plain("dst")),
    },
    "mark": {"--mark": Option(_mark, _own_mark)},
    "addrtype": {
        "--src-type": Option(_address_type("src"), _plain("src")),
        "--dst-type": Option(_address_type("dst"), _plain("dst")),
    },
    "set": {"--match-set": Option(_in_set, _nothing, _seen_in_set)},
    "length": {
        "--length": Option(_range(lambda facts: facts.header.get("length")), _plain("length"))
    },
    "ttl": {
        "--ttl-eq": Option(_compared("="), _plain("ttl")),
        "--ttl-lt": Option(_compared("<"), _plain("ttl")),
        "--ttl-gt": Option(_compared(">"), _plain("ttl")),
    },
    "hl": {
        "--hl-eq": Option(_compared("="), _plain("hop_limit")),
        "--hl-lt": Option(_compared("<"), _plain("hop_limit")),
        "--hl-gt": Option(_compared(">"), _plain("hop_limit")),
    },
    "mac": {"--mac-source": Option(_mac, lambda facts: facts.source_mac)},
    "physdev": {
        "--physdev-in": Option(
            _interface(lambda facts: facts.physin), lambda facts: facts.physin or "none"
        ),
        "--physdev-out": Option(
            _interface(lambda facts: facts.physout), lambda facts: facts.physout or "none"
        ),
    },
}
