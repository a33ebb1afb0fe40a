"""What a rule does to a packet, and whether the packet shows it.

Some targets say exactly what the packet looks like at the next rule. A rule whose effect is not there
did not match; so its ruleset was not the one in force. Arguments are read as iptables-save prints them
(iptables, extensions/libxt_*.c and libipt_*.c); where one is not understood nothing is concluded.

nf_tables tells the mark as it is after the rule, and the packet once a base chain, as it came there.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.rulesets.places import Place

_MASKED: Final = re.compile(r"--set-(?:xmark|tos) (0x[0-9a-f]{1,8})/(0x[0-9a-f]{1,8})")
# Of nft's words the one statement that sets it, and not in a text within quotes.
_SET: Final = "meta mark set "
_SET_MARK: Final = re.compile(rf'(?:[^"]* )?{_SET}(0x[0-9a-f]{{1,8}})(?: [a-z].*)?')
_HOPS: Final = re.compile(r"--(?:ttl|hl)-set (\d{1,3})")
_NAT: Final = re.compile(
    r"--to-(?:source|destination) (?:\[([0-9a-f:]+)\]|([0-9.]+|[0-9a-f:]+))(?::(\d+))?"
)


def contradicted(
    events: TraceEvents, rows: Sequence[int], places: Sequence[Place], *, mark_after: bool
) -> bool:
    """Whether an event of a packet does not show what the rule before it did.

    ``rows``: the events' numbers, ``places``: where each is taken to have been. ``mark_after``: see
    `RulesetBackend`.
    """
    if mark_after and any(map(_marked_otherwise, places, events.mark[list(rows)].tolist())):
        return True
    return any(
        place.rule is not None
        and (shows := _EFFECTS.get(place.rule.target or "")) is not None
        and not (mark_after and (shows is _mark or place.pass_ == next_.pass_))
        and not shows(place.rule.target_args or "", events, row, after)
        for place, next_, row, after in zip(places, places[1:], rows, rows[1:], strict=False)
    )


def _marked_otherwise(place: Place, mark: int) -> bool:
    """Whether a rule's mark is not the one that the kernel told after it."""
    rule = place.rule
    if rule is None:
        return False
    if rule.target == "MARK":
        found = _MASKED.fullmatch(rule.target_args or "")
        return found is not None and not _has(mark, int(found[1], 16), int(found[2], 16))
    if rule.syntax != "nft" or rule.spec.count(_SET) != 1:
        return False
    said = _SET_MARK.fullmatch(rule.spec)
    return said is not None and int(said[1], 16) != mark


def _has(mark: int, value: int, mask: int) -> bool:
    """Whether a mark is what a mask and a value leave of another one, as far as that tells."""
    return (mark ^ value) & mask == 0


def _mark(arguments: str, events: TraceEvents, row: int, after: int) -> bool:
    return _masked(arguments, int(events.mark[row]), int(events.mark[after]))


def _tos(arguments: str, events: TraceEvents, row: int, after: int) -> bool:
    before, now = (_traffic_class(events.packet(one)) for one in (row, after))
    return before is None or now is None or _masked(arguments, before, now)


def _masked(arguments: str, before: int, after: int) -> bool:
    """The mask's bits are cleared, then the value is XORed in (net/netfilter/xt_mark.c, xt_DSCP.c)."""
    found = _MASKED.fullmatch(arguments)
    if found is None:
        return True
    value, mask = int(found[1], 16), int(found[2], 16)
    return after == ((before & ~mask) ^ value)


def _hops(arguments: str, events: TraceEvents, _: int, after: int) -> bool:
    found, packet = _HOPS.fullmatch(arguments), events.packet(after)
    if found is None or len(packet) < 20:  # noqa: PLR2004 - an IPv4 header
        return True
    return packet[7 if packet[0] >> 4 == 6 else 8] == int(found[1])  # noqa: PLR2004 - IP version


def _destination(arguments: str, events: TraceEvents, _: int, after: int) -> bool:
    return _translated(arguments, events.packet(after), end=1)


def _source(arguments: str, events: TraceEvents, _: int, after: int) -> bool:
    return _translated(arguments, events.packet(after), end=0)


def _translated(arguments: str, packet: bytes, *, end: int) -> bool:
    """Whether the packet has the one address that it was given; ranges and ports are left aside."""
    found = _NAT.fullmatch(arguments)
    if found is None or len(packet) < 40:  # noqa: PLR2004 - an IPv6 header
        return True
    size, start = (16, 8) if packet[0] >> 4 == 6 else (4, 12)  # noqa: PLR2004 - IP version
    try:
        given = ipaddress.ip_address(found[1] or found[2]).packed
    except ValueError:
        return True
    return packet[start + end * size : start + (end + 1) * size] == given


def _traffic_class(packet: bytes) -> int | None:
    if len(packet) < 2:  # noqa: PLR2004 - where the field is
        return None
    if packet[0] >> 4 == 6:  # noqa: PLR2004 - IP version
        return (packet[0] << 8 | packet[1]) >> 4 & 0xFF
    return packet[1]


_EFFECTS: Final[dict[str, Callable[[str, TraceEvents, int, int], bool]]] = {
    "MARK": _mark,
    "TOS": _tos,
    "TTL": _hops,
    "HL": _hops,
    "DNAT": _destination,
    "SNAT": _source,
}
