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
    """What a command printed or the kernel answered. ``media``: see the schema of the file."""

    name: str
    holds: str
    media: Literal["text", "json", "netlink"] = "text"


STREAMS: Final = {
    one.name: one
    for one in (
        StreamKind("nflog", "events of legacy iptables' traces", events=True),
        StreamKind(
            "nftrace", "events of nf_tables' traces, and numbers of its rulesets", events=True
        ),
        StreamKind("nftables", "changes of nf_tables' ruleset"),
        StreamKind("drops", "packets that were traced and that the kernel dropped, and why"),
        StreamKind(
            "senders", "sockets that sent traced packets, once for each process: whose they are"
        ),
        StreamKind("conntrack", "connections: those of the beginning, new ones and ends"),
        StreamKind("sockets", "sockets of those that were closed", trimmed=False),
        StreamKind(
            "route-answers",
            "RTM_GETROUTE about packets that seemed to go no further than PREROUTING: questions, answers",
        ),
        # Names of interfaces are needed for whatever comes.
        StreamKind(
            "rtnetlink",
            "changes of links, and of routes of the host's own addresses",
            trimmed=False,
        ),
    )
}


def no_room(kind: str) -> str:
    """What is to be said where the kernel dropped messages of a stream beside the events."""
    holds = STREAMS[kind].holds if kind in STREAMS else "of a later version"
    return f"the kernel had no room for all of the stream {kind} ({holds}); no event of a packet is missing"


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
        SnapshotKind(
            "nft-rules",
            "NFT_MSG_GETRULE: rules of nf_tables as the kernel has them, if few",
            "json",
        ),
        SnapshotKind("nft-text", "nft -a list ruleset"),
        SnapshotKind("nft-generation", "the number of the ruleset that is listed at that moment"),
        SnapshotKind(
            "nft-generations",
            "the first and the last number of rulesets while it was listed, where it changed meanwhile",
        ),
        SnapshotKind(
            "nft",
            "nft -a -j list ruleset; where it changes all the time in the beginning, what the kernel tells,"
            " without the rules' texts; the last one of its moment",
            "json",
        ),
        SnapshotKind("nft-unknown", "the ruleset changed to what was gone before it was read"),
        SnapshotKind(
            "nft-missed",
            "rules of nf_tables that soon went: what the kernel told of them, and how they are listed",
            "json",
        ),
        SnapshotKind(
            "nft-pasted",
            "rules that an imported text told without their places, as nft -a lists them; numbers from 2^63 on"
            " are in the place of handles that were not told",
        ),
        SnapshotKind("raw-table", "what --flush took out and will put back", "json"),
        SnapshotKind("links", "RTM_GETLINK: interfaces", "netlink"),
        SnapshotKind("addresses", "RTM_GETADDR: addresses of interfaces", "netlink"),
        SnapshotKind(
            "routes",
            "RTM_GETROUTE: routes of all tables; if they are few also when they changed",
            "netlink",
        ),
        SnapshotKind("ip-rules", "RTM_GETRULE: routing rules", "netlink"),
        SnapshotKind(
            "policies",
            "XFRM_MSG_GETPOLICY: IPsec's policies, and the number of its states",
            "netlink",
        ),
        SnapshotKind("neighbours", "RTM_GETNEIGH: addresses of the link layer", "netlink"),
        SnapshotKind("fdb", "RTM_GETNEIGH of bridges: what is behind which port", "netlink"),
        SnapshotKind(
            "ipsets",
            "IPSET_CMD_LIST: sets, with their members; while they are small also when they changed",
            "netlink",
        ),
        SnapshotKind(
            "sysctls", "settings of forwarding, netfilter and connection tracking", "json"
        ),
        SnapshotKind(
            "timezone",
            "how far west of UTC the kernel's timezone is; where it is told, nft's JSON has times in UTC",
            "json",
        ),
        SnapshotKind("drop-reasons", "the kernel's names of reasons to drop a packet", "json"),
        SnapshotKind("drop-places", "where in the kernel packets were dropped, by number", "json"),
        SnapshotKind(
            "trace-rules",
            "packets that our TRACE rules matched, by backend, family and chain",
            "json",
        ),
        SnapshotKind(
            "sockets", "SOCK_DIAG_BY_FAMILY: listening sockets of TCP, all of UDP", "netlink"
        ),
        SnapshotKind(
            "owners", "processes that hold those sockets, paths of their control groups", "json"
        ),
        SnapshotKind("sender-cgroups", "paths of control groups of senders, by number", "json"),
        SnapshotKind("groups", "multicast groups that interfaces have joined", "json"),
        SnapshotKind("counters", "what protocols, interfaces, connection tracking counted", "json"),
    )
}
