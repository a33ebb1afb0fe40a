"""Chunks of SCTP: match_packet and match_flags of net/netfilter/xt_sctp.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PORTS_AND_SUM: Final = 12  # bytes before the first chunk
# As iptables prints them (extensions/libxt_sctp.c).
_CHUNKS: Final = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6,
    "SHUTDOWN": 7, "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "ECN_ECNE": 12,
    "ECN_CWR": 13, "SHUTDOWN_COMPLETE": 14, "I_DATA": 64, "ASCONF_ACK": 128, "RE_CONFIG": 130, "PAD": 132,
    "FORWARD_TSN": 192, "ASCONF": 193, "I_FORWARD_TSN": 194,
}  # fmt: skip
_FLAGS: Final = {0: "IUBE", 6: "T", 14: "T", 64: "IUBE"}  # the lowest bit is the last one
_EVERY: Final = dict.fromkeys(range(256), "")
Chunk = tuple[int, int]  # type and flags


def has_chunks(value: str, chunks: Callable[[int], Iterator[Chunk]]) -> bool:
    """``any``, ``all`` or ``only`` of what ``--chunk-types`` lists. Raises KeyError for another chunk's name.

    ``chunks``: those of a packet, from an offset in SCTP on.
    """
    how, _, listed = value.partition(" ")
    wanted = _wanted(listed)
    found = (
        (kind, kind in wanted and _flagged(kind, flags, wanted[kind]))
        for kind, flags in chunks(_PORTS_AND_SUM)
    )
    if how == "any":
        return any(fits for _, fits in found)
    if how == "only":
        return all(fits for _, fits in found)
    return wanted.keys() <= {kind for kind, fits in found if fits}


def _wanted(listed: str) -> dict[int, str]:
    """Flags by the type of a chunk."""
    if listed in ("ALL", "NONE"):
        return _EVERY if listed == "ALL" else {}
    parts = (one.partition(":") for one in listed.split(","))
    return {_CHUNKS[name] if name in _CHUNKS else int(name): flags for name, _, flags in parts}


def _flagged(kind: int, flags: int, wanted: str) -> bool:
    """Whether those in capitals are set and those in small letters are not."""
    names = _FLAGS.get(kind, "")
    return all(
        bool(flags >> len(names) - 1 - names.index(one.upper()) & 1) == one.isupper()
        for one in wanted
    )
