"""IPsec's policies as the kernel lists them: struct xfrm_userpolicy_info and attributes."""

from __future__ import annotations

import ipaddress
import struct

from handmade import attribute, netlink

DIRECTIONS = ("in", "out", "fwd")


def policy(src, dst, direction="fwd", action="block", *, priority=0, protocol=0, dport=0, mark=None,
           templates=0, socket=False):  # fmt: skip
    """A message of the list."""
    ends = [ipaddress.ip_network(one) for one in (dst, src)]
    packed = [one.network_address.packed.ljust(16, b"\0") for one in ends]
    selector = struct.pack(
        ">16s16sHHHH", *packed, dport, 0xFFFF if dport else 0, 0, 0
    ) + struct.pack(
        "<HBBB3xiI", 2 if ends[0].version == 4 else 10, *(one.prefixlen for one in ends), protocol, 0, 0
    )  # fmt: skip
    where = DIRECTIONS.index(direction) + 3 * socket
    body = (
        selector + bytes(96) + struct.pack("<IIBBBB4x", priority, 8, where, action == "block", 0, 0)
    )
    if templates:
        body += attribute(5, bytes(64 * templates))
    if mark is not None:
        body += attribute(21, struct.pack("<II", *mark))
    return netlink(0x13, body)


def default(**blocked):
    """What becomes of packets that no policy fits, by direction."""
    kinds = [1 if blocked.get(one) else 2 for one in ("in_", "fwd", "out")]
    return netlink(0x28, bytes([*kinds, 0]))


def states(count):
    """How many states there are."""
    return netlink(0x22, bytes(4) + attribute(1, struct.pack("<I", count)))


def ended(code=0):
    """The end of the list, or why there is none."""
    return netlink(2 if code else 3, struct.pack("<i", -code))
