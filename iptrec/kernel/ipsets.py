"""The ipsets of the current network namespace, as plain values."""

from __future__ import annotations

import json
from typing import Any, Final

_PLAIN: Final = ("hash:ip", "hash:net")  # whose members are addresses or networks, nothing else
_MOST: Final = 200_000


def dumps() -> dict[str, bytes]:
    """The snapshot "ipsets", JSON: name -> {"type", "members"}; none where the kernel has no sets.

    Members are addresses and networks; null for sets of other things, with exceptions ("nomatch"), or
    too large to be kept.
    """
    from pyroute2 import IPSet  # noqa: PLC0415 - large: see `child`
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    sets: dict[str, dict[str, Any]] = {}
    try:
        with IPSet() as asked:
            for part in asked.list():  # a large set comes in several
                kind = part.get_attr("IPSET_ATTR_TYPENAME")
                one = sets.setdefault(
                    part.get_attr("IPSET_ATTR_SETNAME"),
                    {"type": kind, "members": [] if kind in _PLAIN else None},
                )
                if one["members"] is not None:
                    one["members"] = _added(one["members"], part.get_attr("IPSET_ATTR_ADT"))
    except (NetlinkError, OSError):
        return {}
    return {"ipsets": json.dumps(sets, sort_keys=True).encode()} if sets else {}


def _added(members: list[str], entries: Any) -> list[str] | None:  # noqa: ANN401 - pyroute2 is untyped
    for entry in entries.get_attrs("IPSET_ATTR_DATA") if entries else ():
        if entry.get_attr("IPSET_ATTR_CADT_FLAGS") or entry.get_attr("IPSET_ATTR_IP_TO"):
            return None
        start = entry.get_attr("IPSET_ATTR_IP_FROM")
        address = start.get_attr("IPSET_ATTR_IPADDR_IPV4") or start.get_attr(
            "IPSET_ATTR_IPADDR_IPV6"
        )
        prefix = entry.get_attr("IPSET_ATTR_CIDR")
        members.append(address if prefix is None else f"{address}/{prefix}")
    return members if len(members) <= _MOST else None
