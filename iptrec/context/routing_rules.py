"""Routing rules (ip-rule(8)): which of them a packet matches, as fib_rule_match does (net/core/fib_rules.c).

What the recording does not tell of a packet leaves it open: the answer is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.context.route import BLACKHOLE, DEFAULT_TABLE, LOCAL_TABLE, MAIN, VERSIONS, network

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.context.route import Network

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address
    Row = Mapping[str, Any]

_TO_TABLE, _GOTO = 1, 2  # FR_ACT_...
_INVERT, _UNRESOLVED, _DETACHED = 2, 4, 8  # FIB_RULE_...
# The rules that are there from the beginning: priority -> table (net/ipv4/fib_rules.c, net/ipv6/fib6_rules.c)
PLAIN: Final = {
    4: {0: LOCAL_TABLE, 32766: MAIN, 32767: DEFAULT_TABLE},
    6: {0: LOCAL_TABLE, 32766: MAIN},
}
_SELECTORS: Final = frozenset(
    ["dst", "src", "iif", "oif", "fwmark", "tun_id", "ip_proto", "sport_range", "dport_range", "uid_range",
     "suppress_ifgroup", "suppress_prefixlen", "l3mdev", "dscp", "flow_label"]
)  # fmt: skip
_NOT_UNDERSTOOD: Final = ("tun_id", "l3mdev", "flow_label", "sport_mask", "dport_mask", "dscp_mask")
LEGACY_TOS: Final = 0x1C  # INET_DSCP_LEGACY_TOS_MASK


class Flow(NamedTuple):
    """What is looked up: struct flowi4 or flowi6. None: nobody knows.

    ``iif``: index of the interface; ``in_``: its name. ``tos``: the whole byte. ``strict``: of IPv6, whether
    the route must lead out of ``iif``. ``forwards``: see `routing.Tables`.
    """

    src: IP
    dst: IP
    iif: int
    in_: str
    mark: int | None = 0
    tos: int | None = 0
    protocol: int | None = None
    sport: int | None = None
    dport: int | None = None
    strict: bool = False
    forwards: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class RoutingRule:
    """One rule. ``table``: None for a rule that does not lead to one; ``goto``: a priority.

    ``told``: its selectors, as rtnetlink names them.
    """

    version: int
    priority: int
    action: int
    table: int | None
    goto: int | None
    flags: int
    src: Network | None
    dst: Network | None
    tos: int
    told: Row

    @property
    def plain(self) -> bool:
        """Whether it is from the beginning."""
        chosen = any(self.told[name] != -1 for name in _SELECTORS & self.told.keys())
        return not chosen and self.table == PLAIN[self.version].get(self.priority)

    def matches(self, flow: Flow) -> bool | None:
        """Whether a packet is led by this rule; None where that is not known."""
        found: bool | None = True
        for one in self._conditions(flow):
            if one is False:
                found = False
                break
            found = None if one is None else found
        return None if found is None else found != bool(self.flags & _INVERT)

    def suppresses(self, length: int, kind: int) -> bool:
        """Whether a route that it leads to is not taken, of this prefix; errors are."""
        least = self.told.get("suppress_prefixlen", -1)
        return kind < BLACKHOLE and least != -1 and length <= least

    def _conditions(self, flow: Flow) -> Iterator[bool | None]:
        told = self.told
        if "iif" in told:
            yield not self.flags & _DETACHED and told["iif"] == flow.in_
        if "oif" in told:  # nothing has been chosen yet
            yield False
        if "fwmark" in told or "fwmask" in told:
            mask = told.get("fwmask", 0xFFFFFFFF)
            wanted = told.get("fwmark", 0)
            yield None if flow.mark is None and mask else not ((flow.mark or 0) ^ wanted) & mask
        if "uid_range" in told:
            # A packet that comes in is root's, of IPv6 in some kernels nobody's.
            yield False if told["uid_range"][0] else True if self.version == 4 else None  # noqa: PLR2004
        if self.src is not None:
            yield flow.src in self.src
        if self.dst is not None:
            yield flow.dst in self.dst
        yield from self._tos(flow)
        yield _is(told.get("ip_proto"), flow.protocol)
        for name, port in (("sport_range", flow.sport), ("dport_range", flow.dport)):
            yield _within(told.get(name), port)
        if any(name in told for name in _NOT_UNDERSTOOD) or told.get("suppress_ifgroup", -1) != -1:
            yield None

    def _tos(self, flow: Flow) -> Iterator[bool | None]:
        wanted = self.told.get("dscp")
        if wanted is not None:
            yield None if flow.tos is None else flow.tos >> 2 == wanted
        elif self.tos:
            mask = LEGACY_TOS if self.version == 4 else 0xFC  # noqa: PLR2004
            yield None if flow.tos is None else flow.tos & mask == self.tos


def _is(wanted: int | None, value: int | None) -> bool | None:
    if not wanted:
        return True
    return None if value is None else wanted == value


def _within(wanted: list[int] | None, port: int | None) -> bool | None:
    if not wanted or not any(wanted):
        return True
    return None if port is None else wanted[0] <= port <= wanted[1]


def rules(rows: Iterable[Row]) -> list[RoutingRule]:
    """Rules out of their messages, in their order; those of other families than IP are left out."""
    found = (rule(row) for row in rows)
    return [one for one in found if one is not None]


def rule(row: Row) -> RoutingRule | None:
    """One of them."""
    version = VERSIONS.get(row["family"])
    if version is None:
        return None
    try:
        src, dst = (
            network(row[name], row[f"{name}_len"]) if name in row and row[f"{name}_len"] else None
            for name in ("src", "dst")
        )
    except ValueError:  # of a stranger
        return None
    action, flags = row["action"], row["flags"]
    goes = action == _GOTO and not flags & _UNRESOLVED
    return RoutingRule(
        version,
        row.get("priority", 0),
        action,
        row.get("table") if action == _TO_TABLE else None,
        row.get("goto") if goes else None,
        flags,
        src,
        dst,
        row.get("tos", 0),
        row,
    )
