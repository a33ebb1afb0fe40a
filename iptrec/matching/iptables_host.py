"""What conditions of iptables look at beside the packet: addresses of the host, ipsets, connections."""

from __future__ import annotations

import ipaddress
import itertools
from typing import TYPE_CHECKING, Final

from iptrec.matching import ipsets
from iptrec.matching.facts import ROUTE_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from iptrec.matching.facts import Address, Facts

_IPV6: Final = 6
# NF_CT_STATE_BIT of include/uapi/linux/netfilter/nf_conntrack_common.h
_CT_STATES: Final = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}


def address_type(name: str) -> Callable[[str, Facts], bool | None]:
    """``--dst-type LOCAL,...`` by the routes of the host's own addresses (xt_addrtype.c)."""

    def test(value: str, facts: Facts) -> bool | None:
        kinds, _, limited = value.partition(" ")
        try:
            address = ipaddress.ip_address(facts.header[name])
            wanted = {ROUTE_TYPES[one.lower()] for one in kinds.split(",")}
        except (KeyError, ValueError, TypeError):
            return None
        of = facts.in_ if limited == "--limit-iface-in" else facts.out
        if limited and of is None:
            return None
        if address.version == _IPV6:
            return _is_of_type6(address, wanted, of if limited else None, facts)
        found = _types4(address, of if limited else None, facts)
        answers = {one in wanted for one in found}
        return answers.pop() if len(answers) == 1 else None

    return test


def _types4(address: Address, interface: str | None, facts: Facts) -> Iterable[int]:
    """What an address of IPv4 may be to the host."""
    if address.is_multicast:
        return (ROUTE_TYPES["multicast"],)
    found = None if facts.fib is None else facts.fib.types(address, interface)
    return set(ROUTE_TYPES.values()) - {ROUTE_TYPES["multicast"]} if found is None else found


def _is_of_type6(
    address: Address, wanted: set[int], interface: str | None, facts: Facts
) -> bool | None:
    """Of IPv6 only what does not depend on more routes than the host's own addresses have."""
    if wanted == {ROUTE_TYPES["multicast"]}:
        return address.is_multicast
    if wanted == {ROUTE_TYPES["unicast"]}:
        return not address.is_multicast and not address.is_unspecified
    if wanted != {ROUTE_TYPES["local"]} or facts.fib is None:
        return None
    answers = {one in wanted for one in facts.fib.types(address, interface) or ()}
    return answers.pop() if len(answers) == 1 else None


def in_set(value: str, facts: Facts) -> bool | None:  # noqa: ARG001
    """``--match-set NAME src,dst``: nobody tells when members come and go."""
    return None


def seen_in_set(value: str, facts: Facts) -> str | None:
    """What the set had when it was listed."""
    name, _, directions = value.partition(" ")
    if " " in directions:  # --return-nomatch
        return None
    found = [
        ipsets.contains(sets, name, directions.split(","), facts)
        for sets in facts.sets
        if name in sets
    ]
    if None in found:
        return None
    match [one for one, _ in itertools.groupby(found)]:
        case [True]:
            return "the packet was in it when it was read"
        case [False]:
            return "the packet was not in it when it was read"
        case [False, True]:
            return "the set changed: the packet was not in it before, and was later"
        case [True, False]:
            return "the set changed: the packet was in it before, and not later"
        case [_, *_]:
            return "the set changed: the packet was in it at times"
    return None


def state(value: str, facts: Facts) -> bool | None:
    """``--ctstate``, where the trace tells it."""
    wanted = value.split(",")
    if not facts.ct_state or not _CT_STATES.keys() >= set(wanted):
        return None
    return any(facts.ct_state & _CT_STATES[one] for one in wanted)


def own_state(facts: Facts) -> str | None:
    """The packet's, as iptables calls it."""
    found = [name for name, bit in _CT_STATES.items() if facts.ct_state & bit]
    return ",".join(found) or None
