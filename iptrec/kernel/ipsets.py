"""The ipsets of the current network namespace."""

from __future__ import annotations

import socket
from typing import Final

from iptrec.kernel import netlink
from iptrec.kernel.dumps import dump

_LIST: Final = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST
_PROTOCOL: Final = (
    1,
    b"\6",
)  # IPSET_ATTR_PROTOCOL: every kernel knows 6 (uapi/linux/netfilter/ipset/ip_set.h)


def dumps() -> dict[str, bytes]:
    """The snapshot "ipsets": IPSET_CMD_LIST's messages, each set with its type, its options and its members."""
    body = netlink.netfilter_body(socket.AF_INET, [_PROTOCOL])
    return {"ipsets": dump(netlink.NETFILTER, _LIST, body)}
