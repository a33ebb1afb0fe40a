"""Filters in tcpdump's language as matches of nft, for hosts without iptables-nft: a part of them.

iptables-nft takes the bytecode of any filter, nft itself has no word for it. What nft can say is protocols,
addresses, nets and ports, with "and" and "or", which are of equal precedence in that language (man 7
pcap-filter).
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import TYPE_CHECKING, Final, NoReturn

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROTOCOLS: Final = {
    "ip": "meta nfproto ipv4",
    "ip6": "meta nfproto ipv6",
    "tcp": "meta l4proto tcp",
    "udp": "meta l4proto udp",
    "sctp": "meta l4proto sctp",
    "icmp": "meta nfproto ipv4 meta l4proto icmp",
    "icmp6": "meta nfproto ipv6 meta l4proto icmpv6",
}
_WITH_PORTS: Final = ("tcp", "udp", "sctp")
_SIDES: Final = {"src": ("saddr", "sport"), "dst": ("daddr", "dport")}
_MOST: Final = 64  # rules
_LARGEST_PORT: Final = 65535


def nft_matches(expression: str | None, families: Iterable[str]) -> list[str]:
    """The matches of the rules that together match what the filter does, in tables of the family inet.

    ``families``: "ipv4", "ipv6". Raises UsageError for what nft cannot express.
    """
    only = list(families)
    found = [[f"meta nfproto {only[0]}"] if len(only) == 1 else []]
    words = (expression or "").split()
    if words:
        found = [[*one, *more] for one, more in itertools.product(found, _alternatives(words))]
    return [" ".join(one) for one in found]


def _alternatives(words: list[str]) -> list[list[str]]:
    """The expression as alternatives, each a list of matches that all must hold."""
    found: list[list[str]] = [[]]
    joined = "and"
    while words:
        term = [[one] for one in _term(words)]
        found = (
            [[*one, *more] for one, more in itertools.product(found, term)]
            if joined == "and"
            else found + term
        )
        if len(found) > _MOST:
            raise UsageError(f"without iptables-nft a filter takes {_MOST} rules of nft at most")
        joined = words.pop(0) if words and words[0] in ("and", "or", "&&", "||") else "and"
        joined = {"&&": "and", "||": "or"}.get(joined, joined)
    return found


def _term(words: list[str]) -> list[str]:
    """One primitive, taken off the words, as alternatives."""
    protocol = words.pop(0) if words[0] in _PROTOCOLS else None
    sides = [words.pop(0)] if words and words[0] in _SIDES else [*_SIDES]
    kind = words.pop(0) if words and words[0] in ("host", "net", "port", "portrange") else None
    if kind is None and len(sides) > 1:
        if protocol is None:
            _refuse(words[0])
        return [_PROTOCOLS[protocol]]
    if not words:
        _refuse("its end")
    value = words.pop(0)
    if kind in ("port", "portrange"):
        return [f"{_with_ports(protocol)} th {_SIDES[side][1]} {_ports(value)}" for side in sides]
    version, address = _address(value)
    condition = "" if protocol is None else f"{_PROTOCOLS[protocol]} "
    return [f"{condition}{version} {_SIDES[side][0]} {address}" for side in sides]


def _with_ports(protocol: str | None) -> str:
    if protocol is None:
        return "meta l4proto { tcp, udp, sctp }"
    if protocol not in _WITH_PORTS:
        _refuse(f"{protocol} port")
    return _PROTOCOLS[protocol]


def _ports(value: str) -> str:
    ends = value.split("-")
    if not all(one.isascii() and one.isdigit() and int(one) <= _LARGEST_PORT for one in ends):
        _refuse(value)
    return "-".join(str(int(one)) for one in ends)


def _address(value: str) -> tuple[str, str]:
    try:
        net = ipaddress.ip_network(value)
    except ValueError:
        _refuse(value)
    return "ip" if net.version == 4 else "ip6", str(net)  # noqa: PLR2004


def _refuse(word: str) -> NoReturn:
    raise UsageError(
        f"filter: without iptables-nft only protocols, addresses, nets and ports can be traced, joined by and"
        f" and or; {word!r} is none of them (on Debian: apt-get install iptables)"
    )
