"""What conditions of iptables look at beside the packet: addresses of the host, ipsets, connections."""

from __future__ import annotations

import ipaddress
import itertools
from typing import TYPE_CHECKING, Final

from iptrec.decode.conntrack import DIRECTIONS, STATUS
from iptrec.matching import ipsets
from iptrec.matching.facts import ROUTE_TYPES
from iptrec.matching.field import DEVICE_GROUPS, AbsentError
from iptrec.matching.link_layer import BROADCAST, HOST, MULTICAST, packet_type
from iptrec.matching.nft_ct import FIELDS, connected, master_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from iptrec.matching.facts import Address, Facts

_IPV4, _IPV6 = 4, 6
_PACKET_TYPES: Final = {
    "unicast": HOST, "host": HOST, "broadcast": BROADCAST, "multicast": MULTICAST,
}  # fmt: skip
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


# Under load events wait, and when they were logged is not known well.
UNREAD: Final = "what the host had of IPsec was not read both before and after"
_REVERSE_PATH: Final = frozenset(["--loose", "--validmark", "--accept-local", "--invert"])


def has_way_back(value: str, facts: Facts) -> bool | None:
    """``-m rpfilter`` with all its options (ipt_rpfilter.c, ip6t_rpfilter.c), by the routes of the moment.

    With one of the host's own addresses as its source it may be what the host sent to a group, which passes.
    """
    options = value.split()
    if not _REVERSE_PATH.issuperset(options):
        return None
    found = _way_back(options, facts)
    return None if found is None else found != ("--invert" in options)


def _way_back(options: Sequence[str], facts: Facts) -> bool | None:
    source = ipaddress.ip_address(facts.header["src"])
    if facts.in_ == "lo" or (source.version == _IPV6 and source.is_unspecified):
        return True
    if facts.fib is None or not facts.in_ or (source.version == _IPV4 and source.packed[0] == 0):
        return None
    kinds = facts.fib.types(source, None)
    if kinds is None or ROUTE_TYPES["local"] in kinds:
        return None
    if "--loose" not in options:
        ways = facts.fib.ways(source, facts.in_)
        return None if ways is None or len(ways) > 1 else ways == {facts.in_}
    ways = facts.fib.ways(source, None)
    if not ways or source.is_link_local or len({bool(one) for one in ways}) > 1:
        return None
    return "" not in ways


def frame_type(value: str, facts: Facts) -> bool | None:
    """``--pkt-type``."""
    own = packet_type(facts)
    return None if own is None else own == _PACKET_TYPES[value]


def own_frame_type(facts: Facts) -> str | None:
    """The packet's."""
    own = packet_type(facts)
    return next((name for name, number in _PACKET_TYPES.items() if number == own), None)


def of_connection(
    key: str, fits: Callable[[str, int], bool]
) -> Callable[[str, Facts], bool | None]:
    """What a trace tells of a packet's connection, by nft's key of it (xt_conntrack.c).

    Without a connection it is ``--ctstate`` alone that decides, where the rule has it.
    """

    def test(value: str, facts: Facts) -> bool | None:
        try:
            own = FIELDS[key].read(facts) if connected(facts) else None
        except AbsentError:
            return None
        return fits(value, own) if isinstance(own, int) else None

    return test


def has_status(value: str, own: int) -> bool:
    """``--ctstatus``: any of these; NONE is no bit at all, and never fits."""
    return any(
        own & STATUS[one.lower().replace("_", "-")] for one in value.split(",") if one != "NONE"
    )


def has_direction(value: str, own: int) -> bool:
    """``--ctdir``."""
    return own == DIRECTIONS[value.lower()]


def is_in_network(value: str, own: int) -> bool:
    """``--ctorigsrc``, ``--ctorigdst``."""
    network = ipaddress.ip_network(value, strict=False)
    return own & int(network.netmask) == int(network.network_address)


def marked_connection(_: str, facts: Facts) -> bool | None:
    """``-m connmark --mark``: nobody tells it afterwards, but a packet without a connection has none."""
    connected(facts)
    return None


def has_helper(value: str, facts: Facts) -> bool | None:
    """``--helper``; the opposite is true of a packet whose connection no helper expected (xt_helper.c)."""
    try:
        own = master_helper(facts)
    except AbsentError:
        return False
    return None if own is None else value.strip('"').startswith(own)


def in_group(value: str, own: int | None) -> bool | None:
    """``--src-group``, ``--dst-group`` (xt_devgroup.c); names are those of the host's /etc/iproute2/group."""
    wanted, _, mask = value.partition("/")
    group = DEVICE_GROUPS.get(wanted)
    if own is None or (group is None and not wanted.startswith("0x")):
        return None
    number = int(wanted, 16) if group is None else group
    return not (own ^ number) & int(mask or "0xffffffff", 16)


def by_ipsec(value: str, facts: Facts) -> bool | None:
    """``-m policy`` with all its options (xt_policy.c), where the host has nothing of IPsec."""
    return "--pol none" in value if facts.plain() else None


def of_ipsec(facts: Facts) -> str:
    """Why it is not known whether a packet came by IPsec."""
    if facts.plain() is None:
        return UNREAD
    return "the host had policies or states of IPsec, which tell nothing of one packet"


def in_set(value: str, facts: Facts) -> bool | None:  # noqa: ARG001
    """``--match-set NAME src,dst``: nobody tells when members come and go."""
    return None


def was_in_set(value: str, facts: Facts) -> bool | None:
    """Whether the set had it each time that it was listed; None where it had not been the same each time."""
    found = _listed(value, facts)
    return found[0] if len(found) == 1 else None


def _listed(value: str, facts: Facts) -> list[bool]:
    """Whether the set had it when it was listed, and each time that it was otherwise; nothing: not known."""
    name, directions, *more = value.split(" ")
    if more not in ([], ["--return-nomatch"]):
        return []
    found = [
        ipsets.contains(sets, name, directions.split(","), facts, nomatch=bool(more))
        for sets in facts.sets
        if name in sets
    ]
    known = [one for one, _ in itertools.groupby(found) if one is not None]
    return [] if None in found else known


def seen_in_set(value: str, facts: Facts) -> str | None:
    """What the set had when it was listed."""
    match _listed(value, facts):
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
