"""The ipsets of the current network namespace."""

from __future__ import annotations

from typing import Final

from iptrec.kernel.dumps import dump

_NETLINK_NETFILTER: Final = 12
_LIST: Final = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST
# struct nfgenmsg, IPSET_ATTR_PROTOCOL: 6, which every kernel knows (uapi/linux/netfilter/ipset/ip_set.h).
_REQUEST: Final = bytes.fromhex("02000000 0500 0100 06 000000")


def dumps() -> dict[str, bytes]:
    """The snapshot "ipsets": IPSET_CMD_LIST's messages, each set with its type, its options and its members."""
    return {"ipsets": dump(_NETLINK_NETFILTER, _LIST, _REQUEST)}
