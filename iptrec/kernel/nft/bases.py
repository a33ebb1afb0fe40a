"""The base chains of nf_tables: which of them packets pass before they are traced, or beside that.

include/uapi/linux/netfilter.h, netfilter_bridge.h, netfilter_arp.h have the numbers of the hooks.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.kernel.netlink import attributes
from iptrec.kernel.nft import transactions
from iptrec.kernel.nft.rule import number
from iptrec.names import HOOKS, NFT_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TABLE, _HANDLE, _NAME, _HOOK, _TYPE = 1, 2, 3, 4, 7  # NFTA_CHAIN_
_TABLE_NAME, _TABLE_FLAGS, _TABLE_HANDLE = 1, 2, 4  # NFTA_TABLE_
_DORMANT: Final = 1  # NFT_TABLE_F_DORMANT
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4  # NFTA_HOOK_
_INGRESS: Final = {"netdev": 0, "inet": 5}  # NF_NETDEV_INGRESS, NF_INET_INGRESS
_FIRST: Final = frozenset(HOOKS.index(one) for one in ("PREROUTING", "OUTPUT"))
_RAW: Final = "raw"
OWN: Final = re.compile(r"iptrec-([0-9a-f-]{36})$")  # a recorder's own table, see `table`


class Table(NamedTuple):
    """``dormant``: no packet meets its chains; the kernel tells of their hooks all the same."""

    family: str
    name: str
    handle: int
    dormant: bool


class Base(NamedTuple):
    """A base chain; ``family``, ``table``, ``name`` as nft says them, ``hook`` as the kernel does.

    ``devices``: those whose packets alone it sees, where it is at ingress or egress. ``type``: "filter",
    "route", or "nat", which sees the first packet of a connection alone.
    """

    family: str
    table: str
    name: str
    hook: int
    priority: int
    devices: tuple[str, ...] = ()
    type: str = "filter"

    @property
    def shown(self) -> str:
        """What a reader calls it."""
        return f"{self.family} {self.table}/{self.name}"

    @property
    def ingress(self) -> bool:
        """Whether it sees what a device received before all other hooks."""
        return self.hook == _INGRESS.get(self.family)


def bases() -> list[Base]:
    """All that packets meet, but for recorders' own. Raises `HostError` where nf_tables cannot be asked."""
    return others(every())


def others(known: Iterable[Base]) -> list[Base]:
    """Those that are not recorders' own."""
    return [one for one in known if not OWN.match(one.table)]


def tables(families: Iterable[str] = tuple(NFT_FAMILIES)) -> list[Table]:
    """All tables that there are. Raises `HostError` where nf_tables cannot be asked."""
    return [
        table(family, one)
        for family in families
        for one in transactions.dumped(transactions.GET_TABLE, NFT_FAMILIES[family], []) or ()
    ]


def table(family: str, told: dict[int, bytes]) -> Table:
    """A table of which the kernel tells."""
    return Table(
        family,
        text(told[_TABLE_NAME]),
        number(told.get(_TABLE_HANDLE, b"")),
        bool(number(told.get(_TABLE_FLAGS, b"")) & _DORMANT),
    )


def every() -> list[Base]:
    """All that packets meet. Raises `HostError` where nf_tables cannot be asked."""
    dormant = {(one.family, one.name) for one in tables() if one.dormant}
    return [one for _, one in with_handles() if (one.family, one.table) not in dormant]


def with_handles() -> list[tuple[int, Base]]:
    """All of them and their handles, whether packets meet them or not. Raises `HostError`."""
    return [
        (handle(chain), found)
        for family, number_ in NFT_FAMILIES.items()
        for chain in transactions.dumped(transactions.GET_CHAIN, number_, []) or ()
        if (found := read(family, chain)) is not None
    ]


def handle(chain: dict[int, bytes]) -> int:
    """That of a chain of which the kernel tells."""
    return number(chain.get(_HANDLE, b""))


def holder(chain: dict[int, bytes]) -> str:
    """The table of a chain of which the kernel tells."""
    return text(chain.get(_TABLE, b""))


def passed_before(known: Iterable[Base], priority: int) -> list[Base]:
    """Those that packets pass before they are traced at this priority of IP's hooks; not raw's own."""
    return [one for one in known if not _is_raw(one) and _is_before(one, priority)]


def passed_beside(known: Iterable[Base]) -> list[Base]:
    """Those that frames pass which may never come to IP's hooks, where packets are traced."""
    return [
        one
        for one in known
        if one.family == "arp"
        or (one.family == "bridge" and one.hook != HOOKS.index("PREROUTING"))
        or (one.family == "netdev" and not one.ingress)
    ]


def _is_raw(one: Base) -> bool:
    return (one.family, one.table) in (("ip", _RAW), ("ip6", _RAW))


def _is_before(one: Base, priority: int) -> bool:
    """Of equal priorities it may be."""
    match one.family:
        case "ip" | "ip6" | "inet":
            return one.ingress or (one.hook in _FIRST and one.priority <= priority)
        case "netdev":
            return one.ingress
        case "bridge":
            return one.hook == HOOKS.index("PREROUTING")
    return False


def read(family: str, chain: dict[int, bytes]) -> Base | None:
    """A chain that was dumped; None for a user's chain."""
    if not (hook := dict(attributes(chain.get(_HOOK, b"")))):
        return None
    (number,) = struct.unpack("!I", hook[_HOOK_NUMBER])
    (priority,) = struct.unpack("!i", hook[_HOOK_PRIORITY])
    table, name, kind = (text(chain[one]) for one in (_TABLE, _NAME, _TYPE))
    return Base(family, table, name, number, priority, tuple(_devices(hook)), kind)


def _devices(hook: dict[int, bytes]) -> Iterator[str]:
    """One alone is told twice."""
    listed = [value for _, value in attributes(hook.get(_HOOK_DEVICES, b""))]
    for one in listed or [value for kind, value in hook.items() if kind == _HOOK_DEVICE]:
        yield text(one)


def text(value: bytes) -> str:
    """A name that was dumped."""
    return value.rstrip(b"\0").decode("utf-8", "backslashreplace")
