"""Every kind of stream and of snapshot, once: what it holds, and whether a ring may let go of it.

A recorder writes these kinds alone. A reader may meet others, of a later version: it leaves them alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from iptrec.names import Family


@dataclass(frozen=True, slots=True)
class StreamKind:
    """Raw netlink datagrams out of one kind of socket.

    ``events``: of traced packets. ``trimmed``: a ring lets go of the oldest ones.
    """

    name: str
    holds: str
    events: bool = False
    trimmed: bool = True


@dataclass(frozen=True, slots=True)
class SnapshotKind:
    """What a command printed or a dump returned."""

    name: str
    holds: str
    media: Literal["text", "json"] = "text"


STREAMS: Final = {
    one.name: one
    for one in (
        StreamKind("nflog", "events of legacy iptables' traces", events=True),
        StreamKind("nftrace", "events of nf_tables' traces", events=True),
        StreamKind("nftables", "changes of nf_tables' ruleset"),
        StreamKind("conntrack", "connections: those of the beginning, new ones and ends"),
        # Names of interfaces are needed for whatever comes.
        StreamKind("rtnetlink", "changes of links", trimmed=False),
    )
}

SAVES: Final[dict[Family, str]] = {"ipv4": "iptables-save", "ipv6": "ip6tables-save"}

SNAPSHOTS: Final = {
    one.name: one
    for one in (
        SnapshotKind("iptables-save", "legacy IPv4: all tables, then each one that changed"),
        SnapshotKind("ip6tables-save", "legacy IPv6, likewise"),
        SnapshotKind("iptables-unknown", "a table changed to what was gone before it was read"),
        SnapshotKind("ip6tables-unknown", "likewise, of IPv6"),
        SnapshotKind("iptables-nft-save", "IPv4's tables of nf_tables in words of iptables"),
        SnapshotKind("ip6tables-nft-save", "IPv6's tables of nf_tables in words of iptables"),
        SnapshotKind("nft-text", "nft -a list ruleset"),
        SnapshotKind("nft", "nft -a -j list ruleset; the last one of its moment", "json"),
        SnapshotKind("nft-unknown", "the ruleset changed to what was gone before it was read"),
        SnapshotKind("raw-table", "what --flush took out and will put back", "json"),
        SnapshotKind("links", "interfaces", "json"),
        SnapshotKind("addresses", "addresses of interfaces", "json"),
        SnapshotKind("routes", "routes", "json"),
        SnapshotKind("ip-rules", "routing rules", "json"),
        SnapshotKind("ipsets", "sets, with their members", "json"),
        SnapshotKind("sysctls", "settings that decide where packets go", "json"),
    )
}
