"""Whether the matches of a native rule of nf_tables fit a packet, as far as its text and the packet tell.

Addresses, ports, protocols, interfaces and marks that are compared with one value are judged; sets, maps and
what the kernel remembers are not.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.matching.iptables import Facts

_CONDITION: Final = re.compile(
    r"(?<!\S)(?<!original )(?<!reply )(?<!\. )"
    r"(?P<key>(?:tcp|udp|sctp|th) [sd]port|ip6? [sd]addr|[io]if(?:name)?|meta (?:mark|l4proto)|ip protocol)"
    r' (?P<not>!= )?(?P<value>"[^"]*"|[0-9a-z][0-9a-zA-Z.:/-]*)(?! \.)(?!\S)'
)
_COMMENT: Final = re.compile(r' comment "[^"]*"$')
_ANONYMOUS: Final = re.compile(r" (?:jump|goto) \{.*", re.DOTALL)  # its conditions are other rules'
_ACTIONS: Final = frozenset({"set", "vmap", "map"})
_HEADER: Final = {"saddr": "src", "daddr": "dst", "sport": "sport", "dport": "dport"}
_SAME: Final = {"ipv6-icmp": "icmp6", "icmpv6": "icmp6"}
_OTHER_VERSION: Final = {"ip": 6, "ip6": 4}


def failing(spec: str, facts: Facts) -> str | None:
    """The first condition that the packet does not fit, and what it has instead; None if none is known."""
    for words, key, negated, value in _conditions(spec):
        found, fits = _judged(key, value, facts)
        if fits is not None and fits == negated:
            instead = "none" if found is None else f"{found:#x}" if key == "meta mark" else found
            return f"{words} (it is {instead})"
    return None


def depends(spec: str) -> str:
    """What a rule depends on, without its comment."""
    return _COMMENT.sub("", spec)


def _conditions(spec: str) -> Iterator[tuple[str, str, bool, str]]:
    """(text, key, negated, value) of each."""
    for found in _CONDITION.finditer(_ANONYMOUS.sub("", _COMMENT.sub("", spec))):
        if found["value"] not in _ACTIONS:
            yield found[0], found["key"], found["not"] is not None, found["value"].strip('"')


def _judged(key: str, value: str, facts: Facts) -> tuple[Any, bool | None]:
    """What the packet has, and whether it is that value; None: it cannot be known."""
    first, _, second = key.partition(" ")
    try:
        match second or first:
            case "sport" | "dport":
                return _port(first, _HEADER[second], value, facts)
            case "saddr" | "daddr":
                text = facts.header.get(_HEADER[second])
                if text is None:
                    return None, None
                own = ipaddress.ip_address(text)
                return text, own.version != _OTHER_VERSION[first] and own in ipaddress.ip_network(
                    value
                )
            case "iif" | "iifname":
                return facts.in_, _name(facts.in_, value)
            case "oif" | "oifname":
                return facts.out, _name(facts.out, value)
            case "mark":
                return facts.mark, facts.mark == int(value, 0)
            case "l4proto" | "protocol":
                proto = facts.header.get("proto")
                told = str(proto)
                known = value.isalpha() or value in _SAME
                return told, _SAME.get(told, told) == _SAME.get(value, value) if known else None
    except ValueError:
        pass
    return None, None


def _port(protocol: str, field: str, value: str, facts: Facts) -> tuple[Any, bool | None]:
    port = facts.header.get(field)
    proto = facts.header.get("proto")
    if protocol not in ("th", proto):
        return proto, False
    if not isinstance(port, int):
        return None, None
    low, _, high = value.partition("-")
    return port, int(low) <= port <= int(high or low)


def _name(own: str | None, wanted: str) -> bool:
    if wanted.endswith("*"):
        return (own or "").startswith(wanted[:-1])
    return own == wanted
