"""Interfaces, addresses, routes and routing rules of the current namespace, as plain values."""

from __future__ import annotations

import json
from typing import Any

from pyroute2 import IPRoute


def dumps() -> dict[str, bytes]:
    """Kind of snapshot -> JSON, for "links", "addresses", "routes" and "ip-rules".

    Links are {"index", "name", "kind", "mtu", "address", "master"}, addresses {"index", "family",
    "address", "prefixlen"}; routes and rules are rtnetlink's attributes by their names.
    """
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


def names(links: bytes) -> list[str]:
    """The interfaces' names of a "links" dump."""
    return [link["name"] for link in json.loads(links)]


def _json(rows: Any) -> bytes:  # noqa: ANN401 - pyroute2 is untyped
    return json.dumps(list(rows), default=str).encode()
