"""A packet as the kernel takes it on behind PREROUTING, as far as its last events tell.

What a rule made of it there no later event shows; and what NAT makes of a packet of a connection that is known
already, no rule tells (nf_nat_inet_fn, at priority -100).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.answers.before import changed
from iptrec.context.routing_rules import Flow
from iptrec.context.world import Arrived
from iptrec.decode.conntrack import STATUS
from iptrec.matching import after
from iptrec.matching.bits import Bits
from iptrec.matching.facts import Facts
from iptrec.matching.rewrites import ANYTHING, MARK, is_written
from iptrec.rulesets.table_names import plain
from iptrec.rulesets.targets import is_ours

if TYPE_CHECKING:
    from iptrec.decode.conntrack import Connection
    from iptrec.packets.model import Traversal
    from iptrec.packets.window import Window
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.places import Place

_NAT_PRIORITY: Final = -100  # NF_IP_PRI_NAT_DST
_REWRITING: Final = frozenset(
    ["DNAT", "REDIRECT", "NETMAP", "TPROXY", "DNPT", "SNPT", "SYNPROXY", "CLUSTERIP"]
)
_TO: Final = re.compile(
    r"(?:--to-destination|.*\bdnat(?: ip6?)? to) (?:\[([0-9a-f:]+)\]|([0-9.]+|[0-9a-f:]+))(?::(\d+))?\s*"
)
_TURN_NS: Final = 50_000_000
_TCP, _UDP = 6, 17
_SIX, _HEADER6 = 6, 40
_END_OF_OPTIONS, _NO_OPERATION = 0, 1
_SOURCE_ROUTES: Final = (131, 137)
_POINTER: Final = 2  # where an option has it that points to the next address, which is 4 at least
_OFFSET: Final = 0x1FFF  # IP_OFFSET


class LastSeen(NamedTuple):
    """The packet, and between which times (epoch) it was there.

    ``translated``: NAT may have given it another destination, which nobody tells.
    """

    packet: Arrived
    time_ns: tuple[int, int]
    translated: bool = False


def near(window: Window, row: int) -> tuple[int, int]:
    """When an event was logged, beside what its recorder's loop received from other sockets.

    An idle loop reads all of them in turn: what it received well before or after came so.
    """
    likely = int(window.moment_ns[row]) - _TURN_NS
    return max(int(window.earliest_ns[row]), likely), int(window.events.received_ns[row])


def last_seen(window: Window, position: int, packet: Traversal) -> LastSeen | None:
    """The packet at a position of the window; None where it may have become another one."""
    path = window.assembly.outcomes[window.assembly.outcome[position]].path
    rows = window.assembly.events(position).tolist()
    places = [window.resolver.places[one] for one in path]
    row, last = rows[-1], places[-1]
    events = window.events
    of_bridge = last.bridged or events.physindev[row]
    if of_bridge or not events.indev[row] or packet.in_ in (None, "lo"):
        return None  # of a bridge, or not from outside
    facts = _facts(window, rows, places, late=window.resolver.backends[path[-1]].mark_after)
    if facts is None:
        return None
    bits = facts.bits.captured
    grammar = window.resolver.grammars[path[-1]]
    dst, dport = _destination(last)
    translated = False
    if dst is None and _rewritten_unseen(grammar, places):
        status = int(events.ct_status[row])
        if packet.connection is not None:
            dst, dport = _translated(packet.connection, packet)
            if dst is None:
                return None
        else:
            translated = status < 0 or bool(status & (STATUS["snat"] | STATUS["dnat"]))
    found = _arrived(facts, bits, int(events.indev[row]), packet.in_ or "")
    if found is None:
        return None
    if dst is not None:
        to = ipaddress.ip_address(dst)
        flow = found.flow._replace(dst=to, dport=found.flow.dport if dport is None else dport)
        found = found._replace(flow=flow)
    (first, _), (after, last_ns) = near(window, rows[0]), near(window, row)
    return LastSeen(found, (max(first, after), last_ns), translated)


def _facts(window: Window, rows: list[int], places: list[Place], *, late: bool) -> Facts | None:
    """What is known of the packet behind the rules that its last dump does not show."""
    row, last = rows[-1], places[-1]
    events = window.events
    traced = bool(events.trace[row] >= 0)  # by nf_tables, which dumps it once a base chain
    unseen = [one for one in places if one.pass_ == last.pass_] if traced else [last]
    written = frozenset(key for one in unseen for key in changed(one))
    if ANYTHING in written or (
        any(one.target in _REWRITING for one in unseen) and _destination(last)[0] is None
    ):
        return None
    facts = Facts(
        header={}, mark=None if window.stream.untold else int(events.mark[row]),
        in_=None, out=None, physin=None, physout=None,
        source_mac=None, bits=Bits(events.packet(row), b"", traced),
    )  # fmt: skip
    if late:
        return replace(facts, written=written - {MARK})
    return facts if last.rule is None else after(last.rule, facts, matched=True)


def _arrived(facts: Facts, bits: bytes, iif: int, in_: str) -> Arrived | None:
    """The headers; None where they were not captured, or changed unseen."""
    version = bits[0] >> 4 if bits else 0
    six = version == _SIX
    if len(bits) < (_HEADER6 if six else 20) or version not in (4, _SIX):
        return None
    name, hops = ("ip6", "ip6 hoplimit") if six else ("ip", "ip ttl")
    if any(is_written(f"{name} {end}", facts.written) for end in ("saddr", "daddr")):
        return None
    start, size = (8, 16) if six else (12, 4)
    src, dst = (ipaddress.ip_address(bits[at : at + size]) for at in (start, start + size))
    protocol = bits[6] if six else bits[9]
    tos = (bits[0] << 8 | bits[1]) >> 4 & 0xFF if six else bits[1]
    behind = not six and int.from_bytes(bits[6:8], "big") & _OFFSET  # a fragment without ports
    at = _HEADER6 if six else (bits[0] & 15) * 4
    sport, dport = (None, None) if behind else _ports(bits, at, protocol)
    hidden = {key: is_written(key, facts.written) for key in (hops, "@nh,8,8", "@nh,4,8")}
    flow = Flow(
        src=src,
        dst=dst,
        iif=iif,
        in_=in_,
        mark=facts.mark,
        tos=None if hidden["@nh,4,8" if six else "@nh,8,8"] else tos,
        protocol=protocol,
        sport=sport,
        dport=dport,
        strict=six and (dst.is_multicast or dst.is_link_local or dst.is_loopback),
    )
    length = int.from_bytes(bits[4:6] if six else bits[2:4], "big") + (_HEADER6 if six else 0)
    source_route = has_source_route(bits)
    if source_route is None:
        return None
    return Arrived(
        flow,
        None if hidden[hops] else bits[7] if six else bits[8],
        length,
        True if six else bool(bits[6] & 0x40),
        source_route=source_route,
    )


def has_source_route(bits: bytes) -> bool | None:
    """Whether a packet is of IPv4 and has LSRR or SSRR among its options (RFC 791, 3.1).

    None: they are cut, or broken, and the kernel drops it for that (ip_options_compile, net/ipv4/ip_options.c).
    """
    if not bits or bits[0] >> 4 != 4:  # noqa: PLR2004
        return False
    options, found = bits[20 : (bits[0] & 15) * 4], False
    while options and options[0] != _END_OF_OPTIONS:
        size = 1 if options[0] == _NO_OPERATION else options[1] if len(options) > 1 else 0
        if not size or size > len(options) or (size == 1 and options[0] != _NO_OPERATION):
            return None
        if options[0] in _SOURCE_ROUTES:
            if found or size <= _POINTER or options[_POINTER] <= _POINTER + 1:
                return None
            found = True
        options = options[size:]
    return found


def _ports(bits: bytes, at: int, protocol: int) -> tuple[int | None, int | None]:
    if protocol not in (_TCP, _UDP):
        return None, None
    data = bits[at : at + 4]
    if len(data) < 4:  # noqa: PLR2004 - both of them
        return None, None
    return int.from_bytes(data[:2], "big"), int.from_bytes(data[2:], "big")


def _destination(last: Place) -> tuple[str | None, int | None]:
    """Where a rule of NAT sends it that was the last to be seen; None for no address, or one of several."""
    rule = last.rule
    if rule is None or rule.target != "DNAT":
        return None, None
    text = rule.spec if rule.syntax == "nft" else rule.target_args or ""
    found = _TO.fullmatch(text)
    if found is None:
        return None, None
    return found[1] or found[2], int(found[3]) if found[3] else None


def _rewritten_unseen(grammar: Grammar, places: list[Place]) -> bool:
    """Whether NAT may have changed it behind its last dump: there are rules of NAT, and it met none of them."""
    if any(map(grammar.is_of_nat, places)):
        return False
    base = places[-1].base
    if base is not None:
        chain = grammar.chain(places[-1].table, base)
        if chain and chain.base and (chain.base.priority or 0) > _NAT_PRIORITY:
            return False
    return any(
        not is_ours(rule, grammar.our_comment)
        for name, table in grammar.ruleset.tables.items()
        for chain in table.values()
        if plain(name) == "nat" or (chain.base is not None and chain.base.type == "nat")
        for rule in chain.rules
    )


def _translated(connection: Connection, packet: Traversal) -> tuple[str | None, int | None]:
    """Where its connection has a packet sent, in its direction."""
    orig, reply = connection.orig, connection.reply
    header = packet.header
    ends = header.get("src"), header.get("dst")
    ports = header.get("sport", 0), header.get("dport", 0)
    for one, other in ((orig, reply), (reply, orig)):
        if ends == (one.src, one.dst) and (
            "sport" not in header or ports == (one.sport, one.dport)
        ):
            return other.src, other.sport if "dport" in header else None
    return None, None
