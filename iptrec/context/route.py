"""A route out of rtnetlink's message, and in the words of ip-route(8)."""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network
    Row = Mapping[str, Any]

LOCAL_TABLE, MAIN, DEFAULT_TABLE = 255, 254, 253  # RT_TABLE_...
UNICAST, OWN, BROADCAST, ANYCAST, MULTICAST = 1, 2, 3, 4, 5  # RTN_...
BLACKHOLE, UNREACHABLE, PROHIBIT, THROW = 6, 7, 8, 9
_KINDS: Final = {
    UNICAST: "", OWN: "local", BROADCAST: "broadcast", ANYCAST: "anycast", MULTICAST: "multicast",
    BLACKHOLE: "blackhole", UNREACHABLE: "unreachable", PROHIBIT: "prohibit", THROW: "throw",
}  # fmt: skip
_TABLES: Final = {LOCAL_TABLE: "local", MAIN: "main", DEFAULT_TABLE: "default"}
VERSIONS: Final = {2: 4, 10: 6}  # of IP, by the address family
_ANY: Final = {4: 0, 6: "::"}
_CLONED: Final = 0x200  # RTM_F_CLONED
DEAD, _LINKDOWN = 1, 16  # RTNH_F_...
_MTU, _LOCK = "2", "1"  # RTAX_...
ERRORS: Final = frozenset([BLACKHOLE, UNREACHABLE, PROHIBIT])


class Route(NamedTuple):
    """An entry of a table.

    ``links``: indexes of interfaces, () where they are not told; of each its ``flags`` (RTNH_F_...) and
    ``gateways`` ("": none). ``source``: of IPv6, whose packets alone it takes. ``mtu``: 0 where it has none of
    its own, and whether that is locked.
    """

    table: int
    network: Network
    kind: int
    metric: int
    links: tuple[int, ...]
    gateways: tuple[str, ...] = ()
    flags: tuple[int, ...] = ()
    source: Network | None = None
    tos: int = 0
    scope: int = 0
    mtu: int = 0
    locked: bool = False
    realm: bool = False
    preference: int = 0

    @property
    def usable(self) -> bool | None:
        """Whether packets may go this way, by its links; None: if a setting says so."""
        if self.kind in ERRORS or not self.flags:
            return True
        alive = [one for one in self.flags if not one & DEAD]
        if not alive:
            return False
        return True if any(not one & _LINKDOWN for one in alive) else None


@functools.lru_cache(maxsize=4096)
def network(address: str | int, length: int) -> Network:
    """A network out of an address; bits behind the prefix do not count. Raises ValueError."""
    return ipaddress.ip_network((address, length), strict=False)


def route(row: Row) -> Route | None:
    """A route out of its message; None for what is not an entry of a table."""
    version = VERSIONS.get(row["family"])
    if version is None or row.get("flags", 0) & _CLONED:
        return None
    try:
        to = network(row.get("dst", _ANY[version]), row["dst_len"])
        source = network(row["src"], row["src_len"]) if row["src_len"] and "src" in row else None
    except ValueError:  # of a stranger
        return None
    hops = list(row.get("multipath", ()))
    if "oif" in row:
        hops.append({"oif": row["oif"], "flags": row.get("flags", 0)} | _gateway(row))
    table = row.get("table", MAIN)
    found = Route(
        table,
        to,
        row["type"],
        row.get("priority", 0),
        tuple(one["oif"] for one in hops),
        source=source,
        tos=row.get("tos", 0),
        scope=row.get("scope", 0),
        realm="flow" in row,
    )
    if table == LOCAL_TABLE:  # the same, whatever else is told of it
        return found
    metrics = row.get("metrics", {})
    return found._replace(
        gateways=tuple(_gateway(one).get("gateway", "") for one in hops),
        flags=tuple(one.get("flags", 0) & (DEAD | _LINKDOWN) for one in hops),
        mtu=_metric(metrics, _MTU),
        locked=bool(_metric(metrics, _LOCK) >> int(_MTU) & 1),
        preference=row.get("pref", 0),
    )


def _gateway(row: Row) -> dict[str, str]:
    told = row.get("gateway") or row.get("via")
    return {"gateway": told} if told else {}


def _metric(metrics: Mapping[str, str], number: str) -> int:
    return int.from_bytes(bytes.fromhex(metrics.get(number, "")), "little")


def words(found: Route, names: Mapping[int, str]) -> str:
    """A route in ip-route(8)'s words. ``names``: of interfaces, by index."""
    to = "default" if not found.network.prefixlen else str(found.network)
    kind = _KINDS.get(found.kind, f"type {found.kind}")
    said = [kind, to] if kind else [to]
    if found.source is not None:
        said += ["from", str(found.source)]
    if found.tos:
        said += ["tos", f"{found.tos:#x}"]
    for number, link in enumerate(found.links if found.kind not in ERRORS else ()):
        if len(found.links) > 1:
            said.append("nexthop")
        if gateway := "".join(found.gateways[number : number + 1]):
            said += ["via", gateway]
        said += ["dev", names.get(link, f"if{link}")]
    if found.table not in _TABLES:
        said += ["table", str(found.table)]
    return " ".join(said)
