"""What became of a packet that no rule stopped: the kernel's word, or what its own tables say.

A rule's DROP is a verdict. What routing, a socket or a device discards afterwards is an end: seen as it
happened, asked of the kernel a moment later, or worked out of the recorded routes and settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DISCARDED: Final = (
    "DISCARDED"  # the verdict of a packet that was seen to be discarded behind the rules
)

# "seen": the kernel told of this packet as it happened. "asked": it answered about such a packet, a moment
# later. "recorded": routes, settings and sockets of that moment say so.
Source = Literal["seen", "asked", "recorded"]


@dataclass(frozen=True, slots=True)
class End:
    """How a packet ended behind the rules.

    ``reason``: one word to select and count by, the kernel's own (SKB_DROP_REASON_... without the prefix)
    where it has one. ``text``: a phrase for the reader, without a full stop. ``where``: function and offset
    in the kernel, of what was seen. ``time_ns``: epoch; None of what was worked out. ``sure``: whether it can
    only be this packet, and only this end.
    """

    source: Source
    reason: str
    text: str
    where: str | None = None
    time_ns: int | None = None
    sure: bool = True
