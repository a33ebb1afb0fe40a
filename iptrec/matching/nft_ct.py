"""What conditions of nft look at in connection tracking (net/netfilter/nft_ct.c; nft's src/ct.c).

State, direction and status are those that the trace carries; addresses are those of the connection that was
recorded. A packet without a connection has nothing but a state.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.decode.conntrack import DIRECTIONS, STATES, STATUS
from iptrec.matching.facts import protocol_number
from iptrec.matching.field import (
    AbsentError,
    Field,
    as_number,
    by_names,
    hexadecimal,
    name_of,
    nothing,
    quoted,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.decode.conntrack import Flow
    from iptrec.decode.rulesets.nft_matches import Scalar
    from iptrec.matching.facts import Facts
    from iptrec.matching.field import Read

_NO_CONNECTION: Final = STATES["invalid"] | STATES["untracked"]
# They are there, and nobody tells them afterwards.
_NOT_TOLD: Final[dict[str, Callable[[Scalar], str]]] = {
    "mark": hexadecimal, "helper": quoted, "bytes": str, "packets": str, "zone": str,
}  # fmt: skip


def connected(facts: Facts) -> bool:
    """Whether it is known that the packet is of a connection."""
    if facts.ct_state & _NO_CONNECTION:
        raise AbsentError(_states(facts))
    return bool(facts.ct_state)


def _states(facts: Facts) -> str:
    return ",".join(name for name, bit in STATES.items() if facts.ct_state & bit)


def _statuses(facts: Facts) -> str | None:
    if facts.ct_status is None:
        return None
    return ",".join(name for name, bit in STATUS.items() if facts.ct_status & bit) or "none"


def _if_connected(read: Callable[[Facts], int | None]) -> Read:
    return lambda facts: read(facts) if connected(facts) else None


def _version(facts: Facts) -> int | None:
    source = facts.header.get("src")
    return None if source is None else ipaddress.ip_address(source).version


def _protocol(facts: Facts) -> int | None:
    """The connection's, which is that of the packet but for an ICMP error about it."""
    related = facts.ct_state & STATES["related"]
    own = facts.header.get("proto")
    return None if related or own is None or facts.header.get("ext") else protocol_number(own)


def _flow(facts: Facts, direction: str) -> Flow | None:
    if facts.connection is None:
        return None
    return facts.connection.orig if direction == "original" else facts.connection.reply


def _address(direction: str, name: str, version: int | None) -> Field:
    def own(facts: Facts) -> str | None:
        flow = _flow(facts, direction)
        return None if flow is None else str(getattr(flow, name))

    def read(facts: Facts) -> int | None:
        connected(facts)
        told = own(facts)
        if told is None:
            return None
        address = ipaddress.ip_address(told)
        if version not in (None, address.version):
            raise AbsentError(told)
        return int(address)

    return Field(read, lambda value: int(ipaddress.ip_address(value)), own)


def _port(direction: str, name: str) -> Field:
    def read(facts: Facts) -> int | None:
        connected(facts)
        flow = _flow(facts, direction)
        return None if flow is None else int(getattr(flow, name))

    return Field(read, as_number, read)


def _of_directions() -> dict[str, Field]:
    found = {}
    for direction in DIRECTIONS:
        for ours, theirs in (("src", "saddr"), ("dst", "daddr")):
            for prefix, version in (("", None), ("ip ", 4), ("ip6 ", 6)):
                found[f"ct {direction} {prefix}{theirs}"] = _address(direction, ours, version)
        for ours, theirs in (("sport", "proto-src"), ("dport", "proto-dst")):
            found[f"ct {direction} {theirs}"] = _port(direction, ours)
    return found


def _protocol_of(value: Scalar) -> int:
    number = value if isinstance(value, int) else protocol_number(value)
    if number is None:
        raise ValueError(value)
    return number


FIELDS: Final[dict[str, Field]] = {
    "ct state": Field(lambda facts: facts.ct_state or None, by_names(STATES), _states),
    "ct direction": Field(
        _if_connected(lambda facts: facts.ct_direction),
        by_names(DIRECTIONS),
        name_of(lambda facts: facts.ct_direction, DIRECTIONS),
    ),
    "ct status": Field(_if_connected(lambda facts: facts.ct_status), by_names(STATUS), _statuses),
    "ct l3proto": Field(
        _if_connected(_version),
        by_names({"ipv4": 4, "ipv6": 6}),
        lambda facts: f"ipv{_version(facts)}",
    ),
    "ct protocol": Field(
        _if_connected(_protocol), _protocol_of, lambda facts: facts.header.get("proto")
    ),
    **{
        f"ct {name}": Field(_if_connected(lambda _: None), as_number, nothing, text)
        for name, text in _NOT_TOLD.items()
    },
    **_of_directions(),
}
