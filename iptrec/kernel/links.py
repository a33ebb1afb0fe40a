"""Interfaces, addresses, routes and routing rules of the current namespace, and what becomes of them."""

from __future__ import annotations

import json
import socket
from typing import Any, Final, Self

_RTMGRP_LINK: Final = 1
_LARGEST: Final = 65536


class LinkSocket:
    """Tells of interfaces that come, change and go: raw datagrams of the group RTNLGRP_LINK.

    man 7 rtnetlink. Opened before `dumps` is called it misses nothing. A context manager.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        self._socket.bind((0, _RTMGRP_LINK))
        self._socket.connect((0, 0))  # to the kernel: nobody else can send to it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """The next datagram; None if there is none. Raises OSError (ENOBUFS) where some were lost."""
        try:
            return self._socket.recv(_LARGEST)
        except BlockingIOError:
            return None


def dumps() -> dict[str, bytes]:
    """Kind of snapshot -> JSON, for "links", "addresses", "routes" and "ip-rules".

    Links are {"index", "name", "kind", "mtu", "address", "master"}, addresses {"index", "family",
    "address", "prefixlen"}; routes and rules are rtnetlink's attributes by their names.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - large: see `aside`

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
