"""The ends of packets that every rule let pass, and that did not arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

LOST: Final = "LOST"


@dataclass(frozen=True, slots=True)
class End:
    """What became of a packet behind its last rule.

    ``word``: for a verdict, `LOST`. ``reason``: the kernel's own name (IP_RPFILTER). ``where``: the function in
    the kernel, with the offset (ip_rcv_finish_core+0x25b). ``text``: the same as a plain sentence. ``t``: when,
    epoch, ns. ``source``: "kernel": it told so when it dropped the packet; "model": it would have, by routes
    and settings that were recorded. ``sure``: False where it may have been another packet.
    """

    word: str
    reason: str
    where: str
    text: str
    t: int
    source: Literal["kernel", "model"]
    sure: bool

    @property
    def evidence(self) -> str:
        """The kernel's own words: IP_RPFILTER at ip_rcv_finish_core+0x25b."""
        return " at ".join(filter(None, (self.reason, self.where)))


class Death(NamedTuple):
    """What many packets have in common that the kernel dropped; see `End`."""

    reason: str
    where: str
    text: str
    sure: bool

    @property
    def evidence(self) -> str:
        """See `End`."""
        return self.end(0).evidence

    def end(self, time_ns: int) -> End:
        """The end of one of them."""
        return End(LOST, self.reason, self.where, self.text, time_ns, "kernel", self.sure)
