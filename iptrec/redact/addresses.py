"""Addresses in the place of those of a recording: IPv4, IPv6 and those of Ethernet.

Private networks stay private ones. What means the same everywhere stays: loopback, multicast, link-local, the
broadcast address, documentation, 0.0.0.0. What has another address inside keeps having it: IPv4 in IPv6, a
MAC address in a link-local one (RFC 4291, appendix A), the end of an address in a solicited-node group.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.redact.trees import Tree

if TYPE_CHECKING:
    from iptrec.redact.key import Key

V4, V6, MAC = 4, 16, 6  # bytes
# IANA's registries of special-purpose addresses: those whose networks stay, and those that stay as a whole.
# fd7a:115c:a1e0::/48 is Tailscale's, on every host (https://tailscale.com/kb/1033/ip-and-dns-addresses).
_NETWORKS: Final = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
)
_AS_THEY_ARE: Final = (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24",
    "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
_NETWORKS_6: Final = (
    "::ffff:0:0/96", "64:ff9b::/96", "2000::/3", "2002::/16", "fc00::/7", "fd00::/8",
    "fd7a:115c:a1e0::/48", "fe80::/10", "fe80::/64",
    "ff02::1:ff00:0/104",
)  # fmt: skip
_AS_THEY_ARE_6: Final = ("::/127", "2001:db8::/32", "3fff::/20", "ff00::/8")
_WITH_IPV4: Final = tuple(
    int(ipaddress.IPv6Address(one)) >> 32 for one in ("::ffff:0:0", "64:ff9b::")
)
_LINK_LOCAL: Final = 0xFE80 << 48  # the first 64 bits
_EUI: Final = 0xFFFE  # in the middle of an interface's identifier
_SOLICITED: Final = int(ipaddress.IPv6Address("ff02::1:ff00:0")) >> 24
_SOLICITED_BITS: Final = 24
_SMALL: Final = 1 << 16  # identifiers below it were given by hand, to gateways mostly
_HALF: Final = 64  # bits of a network, and of an identifier
_LOW_32, _LOW_24, _LOW_64 = (1 << 32) - 1, (1 << 24) - 1, (1 << 64) - 1
# Groups of Ethernet that everybody has: of IPv4 and IPv6, of bridges, of Cisco, of clocks, all. Where there is
# no link header nf_tables dumps what was in that memory before, which may look like another group.
_GROUPS: Final = (
    (0x01005E, 24), (0x3333, 32), (0x0180C2, 24), (0x01000C, 24), (0x011B19, 24), ((1 << 48) - 1, 0),
)  # fmt: skip
_IPV6_SOLICITED: Final = 0x3333FF


class Addresses:
    """The maps. ``oui``: who made a network card stays; ``macs``: its whole address does."""

    def __init__(self, key: Key, *, oui: bool = False, macs: bool = False) -> None:
        self._v4 = Tree(key, "ipv4", 32, 8)
        self._v6 = Tree(key, "ipv6", 128, 16)
        self._mac = Tree(key, "mac", 48, 0)
        self._end = Tree(key, "end", 64, 0)  # of link-local addresses without a MAC address
        self._solicited = Tree(key, "solicited", 24, 0)
        self._keep_macs = macs
        self._oui = oui
        for tree, networks, as_they_are in (
            (self._v4, _NETWORKS, _AS_THEY_ARE), (self._v6, _NETWORKS_6, _AS_THEY_ARE_6),
        ):  # fmt: skip
            for one in networks:
                tree.stays(*_ends(one))
            for one in as_they_are:
                tree.stays_as_is(*_ends(one))

    @property
    def ends_stay(self) -> list[str]:
        """The ranges whose ends stay as they are: over several /8, of IPv6 /16."""
        both = (
            (self._v4.ends_stay, ipaddress.IPv4Address),
            (self._v6.ends_stay, ipaddress.IPv6Address),
        )
        return [f"{kind(low)}-{kind(high)}" for some, kind in both for low, high in sorted(some)]

    def keep(self, low: bytes, high: bytes) -> bool:
        """Have a range be one afterwards; False where that cannot be. Before anything is mapped."""
        first, last = int.from_bytes(low, "big"), int.from_bytes(high, "big")
        if len(low) != len(high) or first > last:
            return False
        if len(low) == MAC:
            self._mac.keep(first, last)
            return True
        if len(low) == V4:
            self._v4.keep(first, last)
            return True
        prefix = first ^ last
        inside = _LINK_LOCAL in (first >> 64, last >> 64) or first >> 24 == _SOLICITED
        embedded = first >> 32 in _WITH_IPV4 or last >> 32 in _WITH_IPV4
        if (inside and prefix and not _is_network(first, last, 64)) or (
            embedded and not _is_network(first, last, 128)
        ):
            return False
        if embedded and first >> 32 == last >> 32:
            self._v4.keep(first & _LOW_32, last & _LOW_32)
        self._v6.keep(first, last)
        return True

    def keep_prefix(self, address: bytes, length: int) -> bool:
        """The same of a network; only short ones need it."""
        number, behind = int.from_bytes(address, "big"), 8 * len(address) - length
        first = number >> behind << behind
        last = first | ((1 << behind) - 1)
        if len(address) == V6 and (
            (first >> 64 == _LINK_LOCAL and 0 < behind < _HALF)
            or (first >> 24 == _SOLICITED and 0 < behind < _SOLICITED_BITS)
        ):
            return False
        if length and length < (8 if len(address) == V4 else 16):
            (self._v4 if len(address) == V4 else self._v6).keep(first, last)
        return True

    def keep_border(self, first: int, size: int) -> bool:
        """Have the order of addresses of ``size`` bytes to ``first`` stay (`Tree.keep_border`)."""
        if size == MAC:
            return self._keep_macs or not 0 < first < 1 << 48
        return (self._v4 if size == V4 else self._v6).keep_border(first)

    def address(self, packed: bytes) -> bytes:
        """In the place of an address of 4 or 16 bytes."""
        number = int.from_bytes(packed, "big")
        if len(packed) == V4:
            return self._v4(number).to_bytes(V4, "big")
        return self._of_ipv6(number).to_bytes(V6, "big")

    def network(self, packed: bytes, length: int) -> bytes:
        """The first address of the network in the place of another one, of 4 or 16 bytes.

        Where bits are set behind ``length`` it is an address of that network that is mapped.
        """
        size = 8 * len(packed)
        behind = size - min(length, size)
        number = int.from_bytes(packed, "big")
        if number & ((1 << behind) - 1):
            return self.address(packed)
        if length < (8 if len(packed) == V4 else 16):
            return packed
        found = int.from_bytes(self.address(packed), "big") >> behind << behind
        return found.to_bytes(len(packed), "big")

    def cut(self, start: bytes, size: int) -> bytes:
        """In the place of the beginning of an address of ``size`` bytes."""
        return self.address(start.ljust(size, b"\0"))[: len(start)]

    def _of_ipv6(self, number: int) -> int:
        if number >> 32 in _WITH_IPV4:
            return number >> 32 << 32 | self._v4(number & _LOW_32)
        if number >> 64 == _LINK_LOCAL:
            return _LINK_LOCAL << 64 | self._identifier(number & _LOW_64)
        if number >> 24 == _SOLICITED:
            return _SOLICITED << 24 | self._solicited(number & _LOW_24)
        return self._v6(number)

    def _identifier(self, number: int) -> int:
        """The end of a link-local address."""
        if number < _SMALL:
            return number
        if _is_eui(number):
            mac = (number >> 40 << 24 | number & _LOW_24) ^ (1 << 41)
            found = self._of_mac(mac) ^ (1 << 41)
            return found >> 24 << 40 | _EUI << 24 | found & _LOW_24
        found = self._end(number)
        while _is_eui(found) or found < _SMALL:  # it stays one to one
            found = self._end(found)
        return found

    def mac(self, packed: bytes) -> bytes:
        """In the place of an address of Ethernet, of 6 bytes."""
        return self._of_mac(int.from_bytes(packed, "big")).to_bytes(MAC, "big")

    def _of_mac(self, number: int) -> int:
        if number >> 24 == _IPV6_SOLICITED:
            return number >> 24 << 24 | self._solicited(number & _LOW_24)
        if self._keep_macs or _stays(number):
            return number
        found = self._turned(number)
        while _stays(found):  # it stays one to one
            found = self._turned(found)
        return found

    def _turned(self, number: int) -> int:
        """Whose it is, and whether it was given by hand, stays."""
        found = self._mac(number)
        stays = 0xFFFFFF << 24 if self._oui else 3 << 40
        return found & ~stays | number & stays


def is_group(packed: bytes) -> bool:
    """Whether an address of Ethernet, or the first one of several, is of a group that everybody has."""
    number = int.from_bytes(packed, "big")
    return any(number >> behind == start for start, behind in _GROUPS)


def _stays(number: int) -> bool:
    return not number or is_group(number.to_bytes(MAC, "big"))


def _is_eui(number: int) -> bool:
    return number >> 24 & 0xFFFF == _EUI and not number >> 56 & 1


def _is_network(first: int, last: int, longest: int) -> bool:
    """Whether a range is a network of at most so many bits."""
    behind = (first ^ last).bit_length()
    mask = (1 << behind) - 1
    return first & mask == 0 and last & mask == mask and 128 - behind <= longest


def _ends(network: str) -> tuple[int, int]:
    found = ipaddress.ip_network(network)
    return int(found.network_address), int(found.broadcast_address)
