"""Filters in tcpdump's language as matches of nft, for where iptables-nft and its bytecode are missing.

nft can say protocols, addresses, networks and ports, joined by "and", and alternatives of these, joined by
"or". Each alternative is a rule of its own: a packet that two of them match is traced all the same.
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import TYPE_CHECKING, Final

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROTOCOLS: Final = {
    "ip": "meta nfproto ipv4", "ip6": "meta nfproto ipv6", "tcp": "meta l4proto tcp",
    "udp": "meta l4proto udp", "sctp": "meta l4proto sctp", "esp": "meta l4proto esp",
    "ah": "meta l4proto ah", "icmp": "meta nfproto ipv4 meta l4proto icmp",
    "icmp6": "meta nfproto ipv6 meta l4proto icmpv6",
}  # fmt: skip
_WITH_PORTS: Final = "meta l4proto { tcp, udp, sctp }"
_MOST: Final = 64  # rules


def matches(expression: str | None) -> list[str]:
    """A filter as matches of nft, one a rule; [""] for all packets.

    Raises UsageError for what nft cannot say.
    """
    if not expression:
        return [""]
    found = []
    for alternative in _split(expression.split(), ("or", "||")):
        joined = [_primitive(words) for words in _split(alternative, ("and", "&&"))]
        found += [" ".join(dict.fromkeys(one)) for one in itertools.product(*joined)]
    if len(found) > _MOST:
        raise UsageError(
            f'filter "{expression}": {len(found)} rules of nft, the most are {_MOST}; {_ADVICE}'
        )
    return found


_ADVICE: Final = (
    "iptables-nft is missing, and without it a filter is made of protocols, host, net, port and portrange"
    ' with "and" and "or" only; on Debian: apt-get install iptables'
)


def _split(words: list[str], at: tuple[str, ...]) -> Iterator[list[str]]:
    """The words between others."""
    part: list[str] = []
    for word in words:
        if word in at:
            yield part
            part = []
        else:
            part.append(word)
    yield part


def _primitive(words: list[str]) -> list[str]:
    """What one primitive can mean, such as ``tcp dst port 80``."""
    left = list(words)
    protocol = _PROTOCOLS[left.pop(0)] + " " if left and left[0] in _PROTOCOLS else ""
    if protocol and not left:
        return [protocol.strip()]
    directions = ["src", "dst"]
    if left and left[0] in directions:
        directions = [left.pop(0)]
    match left:
        case ["port" | "portrange" as kind, ports]:
            low, _, high = ports.partition("-")
            wanted = [low, high] if kind == "portrange" else [ports]
            if all(one.isdecimal() and int(one) < 65536 for one in wanted):  # noqa: PLR2004 - 16 bits
                transport = protocol or _WITH_PORTS + " "
                keys = {"src": "sport", "dst": "dport"}
                return [f"{transport}th {keys[one]} {ports}" for one in directions]
        case ["host" | "net", address] | [address] if len(words) > 1 or address not in _PROTOCOLS:
            try:
                network = ipaddress.ip_network(address)
            except ValueError:
                pass
            else:
                key = "ip" if network.version == 4 else "ip6"  # noqa: PLR2004 - the IP version
                ends = {"src": "saddr", "dst": "daddr"}
                return [f"{protocol}{key} {ends[one]} {network}" for one in directions]
    raise UsageError(f'filter: nft cannot say "{" ".join(words)}"; {_ADVICE}')
