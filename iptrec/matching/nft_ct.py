"""What conditions of nft look at in connection tracking (net/netfilter/nft_ct.c; nft's src/ct.c).

State, direction and status are those that the trace carries; addresses are those of the connection that was
recorded. A packet without a connection has nothing but a state.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.decode.conntrack import DIRECTIONS, OTHER_STATUS, STATES, STATUS
from iptrec.decode.rulesets.nft_matches import TEMPLATE
from iptrec.matching.facts import protocol_number
from iptrec.matching.field import (
    AbsentError,
    Field,
    as_name,
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
_NOT_TOLD: Final = ("bytes", "packets")
_UNRECORDED: Final = "connections are recorded with --conntrack alone"


def connected(facts: Facts) -> bool:
    """Whether it is known that the packet is of a connection. Raises AbsentError where it is of none."""
    if TEMPLATE in facts.written or (facts.ct_status or 0) & OTHER_STATUS["template"]:
        return False
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


def _zone(side: int | None) -> Read:
    """Of a connection, or of one of its directions."""

    def read(facts: Facts) -> int | None:
        if not connected(facts) or facts.connection is None or not facts.identified:
            return None
        return facts.connection.zone if side is None else facts.connection.zones[side]

    return read


def master_helper(facts: Facts) -> str | None:
    """The helper of the connection that the packet's belongs to, which is what rules look at; None: not known.

    Raises AbsentError where there is none.
    """
    if not connected(facts):
        return None
    if facts.ct_status is not None and not facts.ct_status & STATUS["expected"]:
        raise AbsentError("of no connection that a helper expected")
    found = facts.connection.expected_by if facts.connection and facts.identified else None
    if found == "":
        raise AbsentError("expected by none")
    return found


def _unrecorded(facts: Facts) -> str:
    return _UNRECORDED if facts.connection is None else ""


REASONS: Final[dict[str, Callable[[Facts], str]]] = dict.fromkeys(
    ["ct zone", "ct original zone", "ct reply zone", "ct helper"], _unrecorded
)
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
    "ct mark": Field(
        _if_connected(lambda facts: facts.ct_mark),
        as_number,
        lambda facts: None if facts.ct_mark is None else f"{facts.ct_mark:#x}",
        hexadecimal,
    ),
    "ct helper": Field(master_helper, as_name, master_helper, quoted),
    "ct zone": Field(_zone(None), as_number, _zone(None)),
    **{
        f"ct {name} zone": Field(_zone(side), as_number, _zone(side))
        for name, side in DIRECTIONS.items()
    },
    **{
        f"ct {name}": Field(_if_connected(lambda _: None), as_number, nothing) for name in _NOT_TOLD
    },
    **_of_directions(),
}
