"""What the watches of all backends have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import threading

    from iptrec.names import Family


class Watch(Protocol):
    """Looks, in a thread of its own, at what may change while packets are traced."""

    @property
    def working(self) -> threading.Lock:
        """Held except while it waits: whoever holds it may fork."""

    def start(self) -> None:
        """Begin to watch."""

    def stop(self) -> None:
        """End, after a last look; a second call does nothing."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Nothing was traced between two times (epoch), because somebody removed what tracing needs.

    ``what``: "rules-gone" (our TRACE rules) or "logger-switched" (net.netfilter.nf_log).
    """

    family: Family
    what: Literal["rules-gone", "logger-switched"]
    first_ns: int
    last_ns: int
