"""Whether a packet is in an ipset: as the kernel looks it up (net/netfilter/ipset/ip_set_*.c).

The types in `_TYPES` are judged, each tried against the kernel. Of others, and of members that are matched by
what a trace does not tell, it is not known.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.decode.ipsets import OF_PORTS, address_key, port_key
from iptrec.names import PROTOCOL_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.decode.ipsets import Entry, IpSet
    from iptrec.matching.facts import Facts

_TYPES: Final = frozenset(
    ["bitmap:ip", "bitmap:port", "hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net",
     "hash:net,port", "hash:net,iface"]
)  # fmt: skip
_LIST: Final = "list:set"
_FAMILIES: Final = {4: (0, 2), 6: (0, 10)}  # of a packet: those of sets that it can be in
_WITH_PORTS: Final = frozenset(["tcp", "udp", "udplite", "sctp"])
_ICMP: Final = frozenset(["icmp", "icmpv6"])
_IN_BITMAPS: Final = (6, 17)  # bitmap:port knows TCP and UDP


class Unknown(Exception):  # noqa: N818 - an answer
    """It depends on what the recording does not tell."""


def contains(
    sets: Mapping[str, IpSet],
    name: str,
    directions: Sequence[str],
    facts: Facts,
    *,
    nomatch: bool = False,
) -> bool | None:
    """Whether the set of this name has the packet; None where it is not known.

    ``sets``: all of one moment. ``directions``: "src" or "dst" for each dimension of the set. ``nomatch``:
    whether it has it as an exception (``--return-nomatch``), in sets that know such.
    """
    try:
        one = sets[name]
        if one.type == _LIST:
            return _in_list(sets, one, directions, facts, nomatch=nomatch)
        return _in_set(one, directions, facts, nomatch=nomatch and "net" in one.dimensions)
    except (KeyError, ValueError, Unknown):
        return None


def _in_list(
    sets: Mapping[str, IpSet], one: IpSet, directions: Sequence[str], facts: Facts, *, nomatch: bool
) -> bool | None:
    """In any of its sets."""
    names = [str(member.get("name")) for member in one.members]
    if not one.known or any(sets[name].type == _LIST for name in names):
        return None
    found = {contains(sets, name, directions, facts, nomatch=nomatch) for name in names}
    return True if True in found else None if None in found else False


def _in_set(one: IpSet, directions: Sequence[str], facts: Facts, *, nomatch: bool) -> bool:
    if one.type not in _TYPES or one.index is None or "bitmask" in one.options:
        raise Unknown
    if OF_PORTS in one.index and (facts.physin or facts.physout):
        raise Unknown
    version = ipaddress.ip_address(facts.header["src"]).version
    if one.family not in _FAMILIES[version] or len(directions) < len(one.dimensions):
        return False  # ip_set_core.c, ip_set_test
    for key in _keys(one, directions, facts):
        if members := one.index.get(key):  # of the longest network, be it of another interface
            found = {
                member.nomatch == nomatch
                for member in members
                if "iface" not in one.dimensions or _is_of(member, directions[1], facts)
            }
            if len(found) > 1:  # which of them the kernel finds first is not known
                raise Unknown
            return True in found
    return False


def _keys(one: IpSet, directions: Sequence[str], facts: Facts) -> Iterator[bytes]:
    """What the packet may be found by, in the kernel's order; nothing where it has no port."""
    port = _port(one, directions, facts) if "port" in one.dimensions else b""
    if port is None:
        return
    for length in one.lengths if "net" in one.dimensions else (0,):
        key = b""
        for dimension, direction in zip(one.dimensions, directions, strict=False):
            if dimension == "port":
                key += port
            elif dimension == "net":
                key += address_key(_packed(direction, facts), length, length)
            elif dimension == "ip":
                packed = _packed(direction, facts)
                netmask = None if key else one.options.get("netmask")
                key += address_key(packed, 8 * len(packed), netmask)
        yield key


def _packed(direction: str, facts: Facts) -> bytes:
    return ipaddress.ip_address(facts.header[direction]).packed


def _port(one: IpSet, directions: Sequence[str], facts: Facts) -> bytes | None:
    """Protocol and port; of ICMP type and code, of others 0. None if it has none (ip_set_getport.c)."""
    header = facts.header
    protocol = str(header["proto"])
    number = int(protocol) if protocol.isdigit() else PROTOCOL_NUMBERS[protocol]
    bitmap = one.type == "bitmap:port"
    if bitmap and number not in _IN_BITMAPS:
        return None
    if protocol not in _WITH_PORTS | _ICMP:
        return port_key(number, 0)
    if header.get("frag"):
        return None
    if protocol in _ICMP:
        return port_key(number, header["type"] << 8 | header["code"])
    side = directions[one.dimensions.index("port")]
    return port_key(0 if bitmap else number, header["sport" if side == "src" else "dport"])


def _is_of(member: Entry, direction: str, facts: Facts) -> bool:
    """Whether it is of the packet's interface."""
    own = (facts.in_ if direction == "src" else facts.out) or ""
    if member.wildcard and own:
        return own.startswith(member.iface)
    return own == member.iface
