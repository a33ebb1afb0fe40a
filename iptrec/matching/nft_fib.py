"""What conditions of nft ask of routes (net/ipv4/netfilter/nft_fib_ipv4.c, net/ipv6/netfilter).

By which interface one comes somewhere is not looked up for all packets. Of those that came in by lo, that the
host sent to a group and gets itself, or of which a socket was found before the rules, the kernel answers the
interface that they came in by (nft_fib_can_skip of include/net/netfilter/nft_fib.h); at INPUT since Linux 6.15.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.matching.facts import ROUTE_TYPES
from iptrec.matching.field import DEVICES, Field, as_name, as_number, by_names, quoted
from iptrec.matching.link_layer import is_again
from iptrec.names import HOOKS

if TYPE_CHECKING:
    from iptrec.decode.rulesets.nft_matches import Scalar
    from iptrec.matching.facts import Address, Facts
    from iptrec.matching.field import Read

_NAMES: Final = {number: name for name, number in ROUTE_TYPES.items()}
_PREROUTING, _INPUT = HOOKS.index("PREROUTING"), HOOKS.index("INPUT")
_AT_INPUT: Final = (
    6,
    15,
)  # the first kernel that looks nothing up there either, but for some older ones
_SOCKETS: Final = frozenset({"tcp", "udp"})  # of these one is found before the rules (early demux)
_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")
_NOWHERE: Final = ipaddress.ip_network("0.0.0.0/8")
_LINK_GROUPS: Final = ipaddress.ip_network("224.0.0.0/24")
_LINK_GROUPS6: Final = ipaddress.ip_network("ff02::/16")
_GROUPS: Final = {ROUTE_TYPES["broadcast"], ROUTE_TYPES["multicast"]}


def field(key: str) -> Field | None:
    """A field by its key: "fib saddr . iif oif exists", "fib daddr type"; None for what is not one."""
    if not key.startswith("fib "):
        return None
    exists = key.endswith(" exists")
    told, _, result = key.removeprefix("fib ").removesuffix(" exists").rpartition(" ")
    flags = told.split(" . ")
    if result == "type":
        read = _type(flags)
        return Field(read, by_names(ROUTE_TYPES), _types_of(read))
    if result not in ("oif", "oifname"):
        return None
    read = _way(flags)
    if exists:
        return Field(_exists(read), as_number, lambda facts: _shown(read(facts)))
    return Field(read, _name, lambda facts: _shown(read(facts)), quoted)


def _address(flags: list[str], facts: Facts) -> Address | None:
    text = facts.header.get("dst" if "daddr" in flags else "src")
    return None if text is None else ipaddress.ip_address(text)


def _type(flags: list[str]) -> Read:
    """What kind of address it is, of the host's or of one interface's."""

    def read(facts: Facts) -> frozenset[int] | None:
        address = _address(flags, facts)
        if address is None or facts.fib is None:
            return None
        of = None
        if "iif" in flags or "oif" in flags:
            of = facts.in_ if "iif" in flags else facts.out
            if of is None:
                return None
        return facts.fib.types(address, of)

    return read


def _way(flags: list[str]) -> Read:
    """By which interface one comes there; "" for none."""

    def read(facts: Facts) -> frozenset[str] | None:
        skipped = _skips(facts)
        if skipped:
            return frozenset({facts.in_ or ""})
        found = _looked_up(flags, facts)
        if skipped is None and found is not None and facts.in_ is not None:
            return found | {facts.in_}
        return None if skipped is None else found

    return read


def _looked_up(flags: list[str], facts: Facts) -> frozenset[str] | None:
    """What the routes tell; the mark is asked for by rules of routing alone."""
    address = _address(flags, facts)
    if address is None or facts.fib is None:
        return None
    near = address.version == 6 and address.is_link_local  # noqa: PLR2004
    if "oif" not in flags and "iif" not in flags and not near:
        return facts.fib.ways(address, None)
    interface = facts.out if "oif" in flags else facts.in_
    return None if interface is None else facts.fib.ways(address, interface)


def _skips(facts: Facts) -> bool | None:
    """Whether nothing is looked up of a packet that came in; None: perhaps."""
    if facts.in_ is None or facts.hook not in (_PREROUTING, _INPUT):
        return False
    if _of_nobody(facts):
        return True
    again = _again(facts)
    if facts.hook == _PREROUTING:
        return again
    if not facts.header.get("proto") or facts.header["proto"] in _SOCKETS:
        return None
    return again and (True if facts.kernel >= _AT_INPUT else None)


def _again(facts: Facts) -> bool | None:
    """Whether the host gets what it sent itself; to others than groups it comes in by lo."""
    if facts.in_type == DEVICES["loopback"]:
        return True
    address = _address(["daddr"], facts)
    if address is None or facts.fib is None:
        return None
    kinds = facts.fib.types(address, None)
    return False if kinds is not None and kinds.isdisjoint(_GROUPS) else is_again(facts)


def _of_nobody(facts: Facts) -> bool:
    """Whether it asks for an address, or whether somebody has one already."""
    src, dst = _address(["saddr"], facts), _address(["daddr"], facts)
    if src is None or dst is None:
        return False
    if src.version == 4:  # noqa: PLR2004
        return src in _NOWHERE and (dst == _BROADCAST or dst in _LINK_GROUPS)
    asks = src.is_unspecified and facts.header.get("proto") == "icmpv6"
    return asks and facts.hook == _PREROUTING and (dst.is_link_local or dst in _LINK_GROUPS6)


def _exists(way: Read) -> Read:
    def read(facts: Facts) -> frozenset[int] | None:
        found = way(facts)
        return frozenset(map(int, map(bool, found))) if isinstance(found, frozenset) else None

    return read


def _types_of(read: Read) -> Read:
    def own(facts: Facts) -> str | None:
        found = read(facts)
        if not isinstance(found, frozenset):
            return None
        return " or ".join(_NAMES.get(int(one), str(one)) for one in sorted(map(int, found)))

    return own


def _name(value: Scalar) -> str:
    return "" if str(value) == "0" else as_name(value)


def _shown(found: object) -> str | None:
    if not isinstance(found, frozenset):
        return None
    return " or ".join(str(one) or "none" for one in sorted(map(str, found)))
