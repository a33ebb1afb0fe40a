"""The ipsets of the current network namespace.

The kernel tells nobody when members come and go: there is no multicast group for it
(include/uapi/linux/netfilter/nfnetlink.h), and no number that counts changes. They have to be listed again.
"""

from __future__ import annotations

import socket
from typing import Final

from iptrec.kernel import netlink
from iptrec.kernel.dumps import LIMIT, dump

_LIST: Final = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST
_PROTOCOL: Final = (
    1,
    b"\6",
)  # IPSET_ATTR_PROTOCOL: every kernel knows 6 (uapi/linux/netfilter/ipset/ip_set.h)
_NFGEN: Final = 4  # bytes of struct nfgenmsg
_DATA, _MEMBERS = 7, 8  # IPSET_ATTR_DATA, IPSET_ATTR_ADT
_RUNNING: Final = frozenset({6, 24, 25})  # IPSET_ATTR_TIMEOUT, _BYTES, _PACKETS of a member

Said = list[tuple[int, bytes]]  # attributes


def dumps(limit: int = LIMIT) -> dict[str, bytes]:
    """The snapshot "ipsets": IPSET_CMD_LIST's messages, each set with its type, its options and its members."""
    body = netlink.netfilter_body(socket.AF_INET, [_PROTOCOL])
    return {"ipsets": dump(netlink.NETFILTER, _LIST, body, limit)}


def members(listing: bytes) -> list[Said]:
    """The sets' names and types and their members, without what changes while all members stay.

    That are counters, and what is left of a member's time.
    """
    found = []
    for message in netlink.messages(listing):
        if message.kind == _LIST:
            said = list(netlink.attributes(message.body[_NFGEN:]))
            found.append([one for one in said if one[0] not in (_DATA, _MEMBERS)])
            for _, entries in (one for one in said if one[0] == _MEMBERS):
                found += [_lasting(entry) for _, entry in netlink.attributes(entries)]
    return found


def _lasting(entry: bytes) -> Said:
    return [one for one in netlink.attributes(entry) if one[0] not in _RUNNING]
