"""What the kernel told of the network: links, addresses, routes, neighbours, sets, sockets, connections.

Of each message what the analysis reads, and no more: `decode.rtnetlink` has the numbers' names.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Final

from iptrec.decode.attributes import first
from iptrec.redact.netlink import attributes, each, keep, messages, nested, walk
from iptrec.redact.values import Values
from iptrec.redact.words import length_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.redact.maps import Maps
    from iptrec.redact.netlink import Layout

_LINKS, _ADDRESSES, _ROUTES, _RULES, _NEIGHBOURS = (
    (16, 17),
    (20, 21),
    (24, 25, 26),
    (32, 33),
    (28, 29),
)
_NETCONF: Final = (80, 81, 82)
_NOOP, _OVERRUN = 1, 4
_LINK, _ADDRESS, _ROUTE, _RULE, _NEIGHBOUR = 16, 8, 12, 12, 12  # bytes of their structs
_KIND: Final = 1  # IFLA_INFO_KIND
# Of what each kind of interface has of its own: numbers alone. A vlan's id, a bond's mode.
_DATA: Final[dict[bytes, tuple[int, ...]]] = {
    b"vlan": (1, 2, 5), b"bond": (1,), b"macvlan": (1, 2), b"vrf": (1,), b"bridge": (1, 2, 3, 5, 7),
}  # fmt: skip
_SOCKET, _SOCKET_REST = 40, 32  # struct inet_diag_msg, in two halves
_SIZES: Final = {2: 4, 10: 16}  # bytes of an address
_POLICY, _TEMPLATE = 168, 64


class Network:
    """Changes of the messages of a kind of stream or snapshot."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        value = Values(maps)
        self._value = value
        self._masks: dict[bytes, int] = {}  # of sets, by their names
        self._link: Layout = {
            1: value.hardware, 2: value.hardware, 3: value.name, 20: value.prose, 18: self._info,
            52: each(value.name),
            **dict.fromkeys((4, 5, 10, 13, 16, 17, 27, 30, 33, 37), keep),
        }  # fmt: skip
        self._address: Layout = {
            1: value.address, 2: value.address, 3: value.name, 4: value.address, 8: keep, 9: keep, 11: keep,
        }  # fmt: skip
        self._route: Layout = {
            1: value.address, 2: value.address, 5: value.address, 7: value.address, 9: self._nexthops,
            18: value.of_family, 8: keep,
            **dict.fromkeys((3, 4, 6, 11, 15, 16, 20, 21, 27, 28, 29, 30), keep),
        }  # fmt: skip
        self._rule: Layout = {
            1: value.address, 2: value.address, 3: value.name, 17: value.name,
            **dict.fromkeys((4, 6, 10, 11, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 24, 25), keep),
        }  # fmt: skip
        self._neighbour: Layout = {
            1: value.address, 2: value.hardware, **dict.fromkeys((5, 6, 7, 8, 9, 12, 15), keep),
        }  # fmt: skip
        both = dict.fromkeys((1, 2, 3, 4), value.address)
        ports = dict.fromkeys(range(1, 10), keep)
        tuple_ = nested({1: nested(both), 2: nested(ports), 3: keep})
        self.connection: Layout = {
            1: tuple_, 2: tuple_, 14: tuple_, 5: nested({1: value.name}),
            **dict.fromkeys((3, 7, 8, 12, 18), keep),
        }  # fmt: skip

    def rtnetlink(self, data: bytes) -> bytes:
        """Links, addresses, routes, rules, neighbours, settings of interfaces; a list or a stream of them."""
        return messages(data, self._of_rtnetlink)

    def _of_rtnetlink(self, kind: int, body: bytes) -> bytes | None:
        if kind in _LINKS:
            return body[:_LINK] + attributes(body[_LINK:], self._link)
        if kind in _ADDRESSES:
            return body[:_ADDRESS] + attributes(body[_ADDRESS:], self._address)
        if kind in _ROUTES:
            return body[:_ROUTE] + attributes(body[_ROUTE:], self._ends(self._route, body))
        if kind in _RULES:
            return body[:_RULE] + attributes(body[_RULE:], self._ends(self._rule, body))
        if kind in _NEIGHBOURS:
            return body[:_NEIGHBOUR] + attributes(body[_NEIGHBOUR:], self._neighbour)
        if kind in (*_NETCONF, _NOOP, _OVERRUN):
            return body
        self._maps.removed(f"messages of rtnetlink of the type {kind}")
        return None

    def _ends(self, layout: Layout, body: bytes) -> Layout:
        """With networks of the lengths that the struct tells: 0 where none counts."""
        if len(body) < 3:  # noqa: PLR2004
            return layout
        lengths = {1: body[1], 2: body[2]}
        return {**layout, **{at: self._value.network(size) for at, size in lengths.items()}}

    def _nexthops(self, value: bytes) -> bytes:
        found, at = b"", 0
        while at + 8 <= len(value):
            (size,) = struct.unpack_from("<H", value, at)
            if not 8 <= size <= len(value) - at:  # noqa: PLR2004
                break
            hop = value[at + 2 : at + 8] + attributes(value[at + 8 : at + size], self._route)
            found += struct.pack("<H", len(hop) + 2) + hop
            found += bytes(-len(found) & 3)
            at += size + 3 & ~3
        return found

    def _info(self, value: bytes) -> bytes:
        told = first(value)
        layout: dict[int, Callable[[bytes], bytes | None]] = {1: keep, 4: keep}
        for kind, at in ((1, 2), (4, 5)):
            known = _DATA.get(told.get(kind, b"").rstrip(b"\0"))
            if known is not None:
                layout[at] = nested(dict.fromkeys(known, keep))
        return attributes(value, layout)

    def conntrack(self, data: bytes) -> bytes:
        """Connections."""
        return messages(data, self._of_conntrack)

    def _of_conntrack(self, kind: int, body: bytes) -> bytes | None:
        if kind >> 8 != 1:
            self._maps.removed(f"messages of the stream conntrack of the type {kind}")
            return None
        return body[:4] + attributes(body[4:], self.connection)

    def sockets(self, data: bytes) -> bytes:
        """Sockets of sock_diag."""
        return messages(data, self._of_sockets)

    def _of_sockets(self, kind: int, body: bytes) -> bytes | None:
        size = _SIZES.get(body[0]) if body else None
        if kind != 20 or len(body) < _SOCKET + _SOCKET_REST or size is None:  # noqa: PLR2004
            self._maps.removed(f"messages about sockets of the type {kind}")
            return None
        ends = b"".join(
            self._maps.address(body[at : at + size]) + bytes(16 - size) for at in (8, 24)
        )
        rest = body[_SOCKET + _SOCKET_REST :]
        return (
            body[:8] + ends + body[_SOCKET : _SOCKET + _SOCKET_REST]
            + attributes(rest, dict.fromkeys((7, 10, 11, 21), keep))
        )  # fmt: skip

    def policies(self, data: bytes) -> bytes:
        """Of IPsec; of the transformations that they ask for their number stays."""
        return messages(data, self._of_policies)

    def _of_policies(self, kind: int, body: bytes) -> bytes | None:
        if kind in (0x28, 0x22):
            return body
        if kind != 0x13 or len(body) < _POLICY:  # noqa: PLR2004
            self._maps.removed(f"messages of XFRM of the type {kind}")
            return None
        family, dst_len, src_len = struct.unpack_from("<HBB", body, 40)
        size = _SIZES.get(family, 16)
        ends = b"".join(
            self._maps.network(body[at : at + size], min(length, 8 * size)) + bytes(16 - size)
            for at, length in ((0, dst_len), (16, src_len))
        )
        templates = {5: lambda value: bytes(len(value)), 21: keep, 31: keep}
        return ends + body[32:_POLICY] + attributes(body[_POLICY:], templates)

    def ipsets(self, data: bytes) -> bytes:
        """Sets, with their members."""
        return messages(data, self._of_ipsets)

    def _of_ipsets(self, kind: int, body: bytes) -> bytes | None:
        if kind >> 8 != 6:  # noqa: PLR2004
            self._maps.removed(f"messages of ipset of the type {kind}")
            return None
        options = dict.fromkeys((4, 5, 6, 7, 8, 10, 11, 17, 18, 19, 20, 21, 23, 24, 25, 26), keep)
        told = first(body[4:])
        name, header = told.get(2, b""), first(told.get(7, b""))
        mask = self._mask(header)
        if mask is not None:
            self._masks[name] = mask
        masked = self._masks.get(name)
        layout = {
            2: self._value.name, 3: keep, 4: keep, 5: keep, 1: keep,
            7: lambda value: self._member(value, options),
            8: each(lambda value: self._member(value, {}, masked)),
        }  # fmt: skip
        return body[:4] + attributes(body[4:], layout)

    def _mask(self, header: dict[int, bytes]) -> int | None:
        """How many bits of members count, where a set says so. Raises `UntrueError`."""
        if 20 in header:  # noqa: PLR2004 - IPSET_ATTR_NETMASK
            return header[20][0]
        _, mask = next(walk(header.get(12, b"")), (0, b""))
        return length_of(str(ipaddress.ip_address(mask)), 8 * len(mask)) if mask else None

    def _member(self, value: bytes, more: Layout, masked: int | None = None) -> bytes:
        told = first(value)
        if masked is not None and 3 not in told:  # noqa: PLR2004 - IPSET_ATTR_CIDR
            told = {**told, 3: bytes([masked])}
        layout: dict[int, Callable[[bytes], bytes | None]] = {
            **dict.fromkeys((4, 5, 6, 7, 8, 9, 10, 11, 24, 25, 27, 28, 29), keep),
            17: self._value.hardware, 18: self._value.name, 19: self._value.name,
            23: self._value.name, 26: self._value.prose, 3: keep, 21: keep, **more,
        }  # fmt: skip
        # The header of a set has other numbers there: netmask, bucketsize.
        for start, end, length in ((1, 2, 3),) if more else ((1, 2, 3), (20, 22, 21)):
            if start in told:
                ends = self._ends_of(told, start, end, length)
                layout[start] = lambda _, found=ends: found[0]  # type: ignore[misc]
                layout[end] = lambda _, found=ends: found[1]  # type: ignore[misc]
        return attributes(value, layout)

    def _ends_of(
        self, told: dict[int, bytes], start: int, end: int, length: int
    ) -> tuple[bytes, bytes | None]:
        """An address, a network or a range; each is in an attribute of its family."""
        kind, low = next(walk(told[start]), (0, b""))
        _, high = next(walk(told.get(end, b"")), (0, b""))
        if high and len(high) == len(low):
            low, high = self._maps.range(low, high)
        elif told.get(length):
            low = self._maps.network(low, told[length][0])
        elif len(low) in (4, 16):
            low = self._maps.address(low)
        else:
            low = b""
        return _one(kind, low), _one(kind, high) if high else None


def _one(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), kind) + value
