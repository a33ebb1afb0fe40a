"""Filters in tcpdump's language as matches of nft, for where iptables-nft and its bytecode are missing.

nft can say protocols, addresses, networks and ports, joined by "and" and "or". Each alternative is a rule of
its own: a packet that two of them match is traced all the same.
"""

from __future__ import annotations

import contextlib
import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import Family


# What it is in nft's words, and the only family that has it
_PROTOCOLS: Final[dict[str, tuple[str, Family | None]]] = {
    "ip": ("", "ipv4"), "ip6": ("", "ipv6"), "tcp": ("meta l4proto tcp", None),
    "udp": ("meta l4proto udp", None), "sctp": ("meta l4proto sctp", None),
    "esp": ("meta l4proto esp", None), "ah": ("meta l4proto ah", None),
    "icmp": ("meta l4proto icmp", "ipv4"), "icmp6": ("meta l4proto icmpv6", "ipv6"),
}  # fmt: skip
_WITH_PORTS: Final = "meta l4proto { tcp, udp, sctp }"
_JOINING: Final = {"and": "and", "&&": "and", "or": "or", "||": "or"}
_MOST: Final = 64  # rules
_ADVICE: Final = (
    "iptables-nft is missing, and without it a filter is made of protocols, host, net, port and portrange"
    ' with "and" and "or" only; on Debian: apt-get install iptables'
)


def matches(expression: str | None, family: Family) -> list[str]:
    """A filter as matches of nft for the packets of one family, one a rule; [""] for all packets.

    Raises UsageError for what nft cannot say.
    """
    if not expression:
        return [""]
    alternatives: list[tuple[tuple[str, Family | None], ...]] = [()]
    for joined, words in _terms(expression.split()):
        primitives = _primitive(words)
        if joined == "or":
            alternatives += [(one,) for one in primitives]
        else:
            alternatives = [(*one, more) for one in alternatives for more in primitives]
        if len(alternatives) > _MOST:
            raise UsageError(
                f'filter "{expression}" needs more than {_MOST} rules of nft; {_ADVICE}'
            )
    return list(
        dict.fromkeys(
            " ".join(dict.fromkeys(match for match, _ in one if match))
            for one in alternatives
            if all(only in (None, family) for _, only in one)
        )
    )


def _terms(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The primitives, each with the word that joins it to all before: both bind equally (pcap-filter)."""
    joined, part = "and", list[str]()
    for word in words:
        if word in _JOINING:
            yield joined, part
            joined, part = _JOINING[word], []
        else:
            part.append(word)
    yield joined, part


def _primitive(words: list[str]) -> list[tuple[str, Family | None]]:
    """What one primitive can mean, such as ``tcp dst port 80``; with the only family that it can be of."""
    left = list(words)
    protocol, only = _PROTOCOLS[left.pop(0)] if left and left[0] in _PROTOCOLS else ("", None)
    if not left and words:
        return [(protocol, only)]
    directions = ["src", "dst"]
    if left and left[0] in directions:
        directions = [left.pop(0)]
    match left:
        case ["port" | "portrange" as kind, ports]:
            low, _, high = ports.partition("-")
            wanted = [low, high] if kind == "portrange" else [ports]
            if all(one.isdecimal() and int(one) < 65536 for one in wanted):  # noqa: PLR2004 - 16 bits
                keys = {"src": "sport", "dst": "dport"}
                transport = protocol or _WITH_PORTS
                return [(f"{transport} th {keys[one]} {ports}", only) for one in directions]
        case ["host" | "net", address] | [address]:
            with contextlib.suppress(ValueError):
                network = ipaddress.ip_network(address)
                family: Family = "ipv4" if network.version == 4 else "ipv6"  # noqa: PLR2004
                if only in (None, family):
                    key = "ip" if family == "ipv4" else "ip6"
                    ends = {"src": "saddr", "dst": "daddr"}
                    return [
                        (f"{protocol} {key} {ends[one]} {network}".strip(), family)
                        for one in directions
                    ]
    raise UsageError(f'filter: nft cannot say "{" ".join(words)}"; {_ADVICE}')
