"""Interfaces, addresses, routes and routing rules of the current namespace, and what becomes of them."""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from iptrec.kernel import netlink
from iptrec.kernel.netlink import Listener

_GROUP_LINK: Final = 1  # RTNLGRP_LINK


class LinkSocket(Listener):
    """Tells of interfaces that come, change and go: raw datagrams of the group RTNLGRP_LINK.

    man 7 rtnetlink. Opened before `dumps` is called it misses nothing. A context manager.
    """

    def __init__(self) -> None:
        opened = netlink.connected(netlink.ROUTE)
        netlink.join(opened, _GROUP_LINK)
        super().__init__(opened, netlink.LARGEST)


def dumps() -> dict[str, bytes]:
    """Kind of snapshot -> JSON, for "links", "addresses", "routes" and "ip-rules".

    Links are {"index", "name", "kind", "mtu", "address", "master"}, addresses {"index", "family",
    "address", "prefixlen"}; routes and rules are rtnetlink's attributes by their names.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - large: see `child`

    with IPRoute() as route:
        return {
            "links": _json(
                {
                    "index": link["index"],
                    "name": link.get("ifname"),
                    "kind": link.get(("linkinfo", "kind")),
                    "mtu": link.get("mtu"),
                    "address": link.get("address"),
                    "master": link.get("master"),
                }
                for link in route.get_links()
            ),
            "addresses": _json(
                {
                    "index": address["index"],
                    "family": "ipv6" if address["family"] == 10 else "ipv4",  # noqa: PLR2004
                    "address": address.get("address"),
                    "prefixlen": address["prefixlen"],
                }
                for address in route.get_addr()
            ),
            "routes": _json(dict(one["attrs"]) for one in route.get_routes()),
            "ip-rules": _json(dict(one["attrs"]) for one in route.get_rules()),
        }


def names() -> list[str]:
    """The interfaces' names."""
    return [name for _, name in socket.if_nameindex()]


def _json(rows: Any) -> bytes:  # noqa: ANN401 - pyroute2 is untyped
    return json.dumps(list(rows), default=str).encode()
