"""What is known of a packet at a rule, and what can be said of the rule by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import PROTOCOL_NUMBERS

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Mapping, Sequence

    from iptrec.decode.ipsets import IpSet

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NUMBERS: Final = PROTOCOL_NUMBERS | {
    "ipencap": 4, "ipv6-icmp": 58, "all": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a packet at a rule. ``header``: as `decode.packet.header` gives it.

    ``mark``: None where it is not known. ``local``: the host's addresses, None if they were not recorded.
    ``sets``: the ipsets by their names, each time that they were recorded. ``ct_state``: the bits of
    its connection's state (`TraceEvents.ct_state`); 0: not known.
    """

    header: dict[str, Any]
    mark: int | None
    in_: str | None
    out: str | None
    physin: str | None
    physout: str | None
    source_mac: str | None
    local: frozenset[Address] | None
    sets: Sequence[Mapping[str, IpSet]] = ()
    ct_state: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """``fits`` is None where it cannot be known. ``because``: the condition that failed or is unknown."""

    fits: bool | None
    because: str | None = None


def protocol_number(text: str) -> int | None:
    """The number of a protocol by its name (/etc/protocols) or its digits; None for what is neither."""
    if text in _NUMBERS:
        return _NUMBERS[text]
    return int(text) if text.isascii() and text.isdigit() else None
