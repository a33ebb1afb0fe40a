"""The kernel's own word about a packet that it did not route, with the route, rule or setting that explains it.

That the kernel does not tell: of the routes of a moment, which were recorded, one leads to the same end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.packets.drop_words import DISCARDING, ROUTING, function

if TYPE_CHECKING:
    from iptrec.packets.ends import End


_NO_WAY: Final = frozenset(["IP_INNOROUTES", "UNREACHABLE", "PROHIBIT", "BLACKHOLE"])
# Words that the kernel has for several things, and what they may be.
_SEVERAL: Final = {
    "NOT_SPECIFIED": _NO_WAY | {"NOT_JOINED", "SOURCE_ROUTE"},
    "EINVAL": frozenset(
        ["BLACKHOLE", "NOT_JOINED", "IP_RPFILTER", "IP_LOCALNET", "IP_LOCAL_SOURCE", "IP_INVALID_SOURCE",
         "IP_INVALID_DEST"]
    ),
}  # fmt: skip


def is_of_routing(place: str | None) -> bool:
    """Whether routing drops packets at a place in the kernel."""
    return place is not None and function(place) in (*ROUTING, *DISCARDING)


def explained(said: End, recorded: End | None) -> End:
    """What the kernel said, with what is ``recorded``, if that is sure and the same."""
    if recorded is None or not (said.sure and recorded.sure) or not _agree(said, recorded):
        return said
    if not recorded.evidence:  # such as that there is no route: the kernel says so itself
        return said
    if said.reason == "EINVAL":
        return replace(said, reason=recorded.reason, evidence=f"EINVAL; {recorded.evidence}")
    return said.adding(recorded.evidence)


def _agree(said: End, recorded: End) -> bool:
    one, other = said.reason, recorded.reason
    return one == other or {one, other} <= _NO_WAY or other in _SEVERAL.get(one, ())
