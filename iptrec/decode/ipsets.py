"""Sets of addresses, networks, ports, ... out of the kernel's list of ipsets.

Layout: include/uapi/linux/netfilter/ipset/ip_set.h; net/netfilter/ipset/ip_set_core.c, ip_set_dump_do: a
message has a set's name and some of its members; the first one of a set has its type and options, too. Numbers
are in network byte order. What does not fit is left out.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.decode.attributes import attributes, first, messages, text
from iptrec.decode.rtnetlink import Read, address, hardware, named, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LIST: Final = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST
_NFGEN: Final = 4  # bytes of struct nfgenmsg
_SETNAME, _TYPENAME, _REVISION, _FAMILY, _DATA, _ADT = 2, 3, 4, 5, 7, 8  # IPSET_ATTR_...
OF_PORTS: Final = b"physdev"
_SIZES: Final = {2: 4, 10: 16}  # of addresses, bytes
_IP, _CIDR, _PORT, _PROTO, _CADT_FLAGS, _IP2, _CIDR2, _IFACE = 1, 3, 4, 7, 8, 20, 21, 23
_PHYSDEV, _NOMATCH, _WILDCARD = 2, 4, 128  # enum ipset_cadt_flags
_MOST: Final = 1_000_000  # members of a set; a recorder keeps less


def _one_of_two(value: bytes) -> str:
    """IPSET_ATTR_IPADDR_IPV4 or _IPV6 inside of an address."""
    return next((address(one) for _, one in attributes(value)), "")


def _flags(value: bytes) -> list[str]:
    """The names of enum ipset_cadt_flags."""
    bits = _u32(value)
    return [name for bit, name in _FLAGS.items() if bits & bit]


_u8, _u16, _u32, _u64 = (number(one) for one in (">B", ">H", ">I", ">Q"))
_FLAGS: Final = {
    1: "before", 2: "physdev", 4: "nomatch", 8: "counters", 16: "comment", 32: "forceadd", 64: "skbinfo",
    128: "wildcard",
}  # fmt: skip
_BOTH: Final[dict[int, tuple[str, Read]]] = {
    1: ("ip", _one_of_two), 2: ("ip_to", _one_of_two), 3: ("cidr", _u8), 4: ("port", _u16),
    5: ("port_to", _u16), 6: ("timeout", _u32), 7: ("proto", _u8), 8: ("flags", _flags), 10: ("mark", _u32),
    11: ("markmask", _u32), 12: ("bitmask", _one_of_two),
}  # fmt: skip
_OPTIONS: Final[dict[int, tuple[str, Read]]] = _BOTH | {
    17: ("initval", _u32), 18: ("hashsize", _u32), 19: ("maxelem", _u32), 20: ("netmask", _u8),
    21: ("bucketsize", _u8), 23: ("size", _u32), 24: ("elements", _u32), 25: ("references", _u32),
    26: ("memsize", _u32),
}  # fmt: skip
_OF_MEMBERS: Final[dict[int, tuple[str, Read]]] = _BOTH | {
    17: ("ether", hardware), 18: ("name", text), 19: ("nameref", text), 20: ("ip2", _one_of_two),
    21: ("cidr2", _u8), 22: ("ip2_to", _one_of_two), 23: ("iface", text), 24: ("bytes", _u64),
    25: ("packets", _u64), 26: ("comment", text), 27: ("skbmark", _u64), 28: ("skbprio", _u32),
    29: ("skbqueue", _u16),
}  # fmt: skip


class Entry(NamedTuple):
    """What a member has beside its key. ``wildcard``: the interface's name is the beginning of one."""

    nomatch: bool
    iface: str
    wildcard: bool


_PLAIN: Final = Entry(nomatch=False, iface="", wildcard=False)
_ONLY: Final = (_PLAIN,)


@dataclass(frozen=True)
class IpSet:
    """A set at one moment. ``family``: AF_INET, AF_INET6, 0 for any. ``known``: all members are here."""

    name: str
    type: str
    family: int
    revision: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    known: bool = True
    parts: Sequence[bytes] = ()  # IPSET_ATTR_ADT of each message
    networks: Sequence[str] = ()  # of format 1 of the file

    @property
    def members(self) -> Iterator[dict[str, Any]]:
        """Each as attribute -> value, in the kernel's order; a network's length is "cidr"."""
        for part in self.parts:
            for kind, value in attributes(part):
                if kind == _DATA:
                    yield named(_OF_MEMBERS, value)
        for network in self.networks:
            start, _, length = network.partition("/")
            yield {"ip": start} | ({"cidr": int(length)} if length else {})

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What a member is of: ("net", "iface"); ("set",) of a list."""
        return tuple(self.type.partition(":")[2].split(","))

    @functools.cached_property
    def index(self) -> dict[bytes, Sequence[Entry]] | None:
        """Members by what is compared exactly: `address_key`, `port_key`, one a dimension, joined.

        None where they are not known. Under `OF_PORTS` are those that a bridge's port is part of ("physdev:").
        """
        found: dict[bytes, Sequence[Entry]] = {}
        for count, (key, entry) in enumerate(self._entries()):
            if count == _MOST:
                return None
            known = found.get(key)
            if known is None:
                found[key] = (entry,) if entry is not _PLAIN else _ONLY
            elif isinstance(known, list):
                known.append(entry)
            else:
                found[key] = [*known, entry]
        return found if self.known else None

    @functools.cached_property
    def lengths(self) -> list[int]:
        """The prefix lengths of the networks in it, in the kernel's order: long ones first."""
        if "net" not in self.dimensions:
            return []
        size = _SIZES.get(self.family, 4)
        before = self.dimensions[: self.dimensions.index("net")]
        place = sum(3 if one == "port" else size + 1 for one in before) + size
        keys = (key for key in self.index or () if key != OF_PORTS)
        # The kernel has no member of another family than the set's; a hostile file may.
        return sorted({key[place] for key in keys if len(key) > place}, reverse=True)

    def _entries(self) -> Iterator[tuple[bytes, Entry]]:
        """Key and the rest of each member: a set may have a million, hence without `members`."""
        dimensions, size = self.dimensions, _SIZES.get(self.family, 4)
        found = (value for part in self.parts for kind, value in attributes(part) if kind == _DATA)
        for said in map(first, found):
            key = _key(dimensions, size, said)
            if key is not None:
                yield key, _entry(said)
        for network in map(ipaddress.ip_network, self.networks):
            yield address_key(network.network_address.packed, network.prefixlen), _PLAIN


def address_key(packed: bytes, length: int, mask: int | None = None) -> bytes:
    """An address or a network by its bytes and its prefix length; with only the first ``mask`` bits kept."""
    if mask is not None and mask < 8 * len(packed):
        rest = 8 * len(packed) - mask
        packed = (int.from_bytes(packed, "big") >> rest << rest).to_bytes(len(packed), "big")
    return packed + bytes([length])


def port_key(protocol: int, port: int) -> bytes:
    """A port; ``protocol`` is 0 where none is compared."""
    return bytes([protocol]) + port.to_bytes(2, "big")


def _key(dimensions: Sequence[str], size: int, said: Mapping[int, bytes]) -> bytes | None:
    """What a member is found by; None for one that does not fit its set."""
    if _bits(said) & _PHYSDEV:
        return OF_PORTS
    key = b""
    names = iter(((_IP, _CIDR), (_IP2, _CIDR2)))
    for dimension in dimensions:
        if dimension in ("ip", "net"):
            start, length = next(names, (0, 0))
            packed = said.get(start, b"")[4:]  # in IPSET_ATTR_IPADDR_IPV4 or _IPV6
            if len(packed) != size:
                return None
            key += packed + (said.get(length) or bytes([8 * size]))[:1]
        elif dimension == "port":
            if len(port := said.get(_PORT, b"")) != 2:  # noqa: PLR2004 - bytes
                return None
            key += (said.get(_PROTO) or b"\0")[:1] + port
    return key


def _entry(said: Mapping[int, bytes]) -> Entry:
    bits = _bits(said)
    if not bits and _IFACE not in said:
        return _PLAIN
    return Entry(bool(bits & _NOMATCH), text(said.get(_IFACE, b"")), bool(bits & _WILDCARD))


def _bits(said: Mapping[int, bytes]) -> int:
    return int.from_bytes(said.get(_CADT_FLAGS, b""), "big")


def ipsets(data: bytes) -> list[IpSet]:
    """All sets of a list that the kernel sent."""
    found: dict[str, tuple[dict[int, bytes], list[bytes]]] = {}
    for message in messages(data):
        if message.kind != _LIST:
            continue
        said = first(message.body[_NFGEN:])
        if _SETNAME not in said:
            continue
        _, parts = found.setdefault(text(said[_SETNAME]), (said, []))
        if _ADT in said:
            parts.append(said[_ADT])
    return [
        IpSet(
            name,
            text(said.get(_TYPENAME, b"")),
            (said.get(_FAMILY) or b"\0")[0],
            (said.get(_REVISION) or b"\0")[0],
            named(_OPTIONS, said.get(_DATA, b"")),
            parts=parts,
        )
        for name, (said, parts) in found.items()
    ]
