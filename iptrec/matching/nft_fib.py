"""What conditions of nft ask of routes (net/ipv4/netfilter/nft_fib_ipv4.c, net/ipv6/netfilter)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.matching.facts import ROUTE_TYPES
from iptrec.matching.field import Field, as_name, as_number, by_names, quoted

if TYPE_CHECKING:
    from iptrec.decode.rulesets.nft_matches import Scalar
    from iptrec.matching.facts import Address, Facts
    from iptrec.matching.field import Read

_NAMES: Final = {number: name for name, number in ROUTE_TYPES.items()}


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
        address = _address(flags, facts)
        if address is None or facts.fib is None or "mark" in flags or "oif" in flags:
            return None
        if "iif" in flags and facts.in_ is None:
            return None
        return facts.fib.ways(address, facts.in_ if "iif" in flags else None)

    return read


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
