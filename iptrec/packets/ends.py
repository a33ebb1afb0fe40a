"""What became of a packet that no rule stopped: the kernel's word, or what its own tables say.

A rule's DROP is a verdict. What routing, a socket or a device discards afterwards is an end: seen as it
happened, asked of the kernel a moment later, or worked out of the recorded routes and settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

DISCARDED: Final = "DISCARDED"  # the verdict of a packet that was seen to be discarded
# The words of ends that are told of every recording: the kernel's, and where it has none ours (docs/ends.md)
WORDS: Final = (
    "IP_RPFILTER", "IP_LOCAL_SOURCE", "IP_LOCALNET", "IP_INVALID_SOURCE", "IP_INVALID_DEST", "IP_INNOROUTES",
    "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "SOURCE_ROUTE", "IP_INADDRERRORS", "IP_INHDR", "PKT_TOO_BIG",
    "NOT_JOINED", "NO_SOCKET", "LISTEN_OVERFLOW", "LISTEN_DROP", "SOCKET_RCVBUFF", "SOCKET_FILTER",
    "XFRM_POLICY", "UDP_CSUM", "TCP_CSUM", "ICMP_CSUM", "IP_NOPROTO", "NEIGH_FAILED", "NOT_SPECIFIED",
    "EINVAL", "EHOSTUNREACH",
)  # fmt: skip

# "seen": the kernel told of this packet as it happened. "asked": it answered about such a packet, a moment
# later. "recorded": routes, settings and sockets of that moment say so.
Source = Literal["seen", "asked", "recorded"]
_DOUBTS: Final[dict[Source, str]] = {"asked": "perhaps,"}  # what the kernel says is no doubt


@dataclass(frozen=True, slots=True)
class End:
    """How a packet ended behind the rules.

    ``reason``: one word to select and count by, the kernel's own (SKB_DROP_REASON_... without the prefix)
    where it has one. ``sentence``: for the reader, without a full stop, and as if it were sure. ``where``:
    function and offset in the kernel, of what was seen. ``time_ns``: epoch; None of what was worked out.
    ``sure``: whether it can only be this packet, and only this end. ``evidence``: the route, setting or answer
    that shows it; empty where the sentence says all.
    """

    source: Source
    reason: str
    sentence: str
    where: str | None = None
    time_ns: int | None = None
    sure: bool = True
    evidence: str = ""

    @property
    def text(self) -> str:
        """The sentence with its evidence; one that is not sure says so."""
        said = ": ".join(filter(None, (self.sentence, self.evidence)))
        return said if self.sure else f"{_DOUBTS.get(self.source, 'perhaps')} {said}"

    @property
    def kernels_words(self) -> str:
        """Of what was seen: IP_RPFILTER at ip_rcv_finish_core+0x25b."""
        return " at ".join(filter(None, (self.reason, self.where)))

    def adding(self, more: str, then: str = "; ") -> End:
        """The same, with more words behind it."""
        if self.evidence:
            return replace(self, evidence=f"{self.evidence}{then}{more}")
        return replace(self, sentence=f"{self.sentence}{then}{more}")


class Ending(NamedTuple):
    """What is told of a packet: its end, where that is known, and why its trace is not whole or not sure."""

    end: End | None
    reason: str | None


class Death(NamedTuple):
    """What many packets have in common that were seen to be discarded; see `End`."""

    reason: str
    where: str
    text: str
    sure: bool

    def end(self, time_ns: int) -> End:
        """The end of one of them."""
        return End("seen", self.reason, self.text, self.where or None, time_ns, self.sure)
