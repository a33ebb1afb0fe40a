"""What the kernel counted while packets were recorded: how much its counters of discarded packets rose.

They are read at the start and at the end, and by a ring again and again. They tell of all packets of the
network namespace, traced ones or not, and never which packet it was.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode import snapshots
from iptrec.decode.counters import Counter, counters

if TYPE_CHECKING:
    from iptrec.names import Family
    from iptrec.recording.rows import Recording

_DISCARDS: Final = frozenset([
    "IpInHdrErrors", "IpInAddrErrors", "IpInUnknownProtos", "IpInDiscards", "IpOutDiscards", "IpOutNoRoutes",
    "IpReasmFails", "IpFragFails", "InNoRoutes", "InTruncatedPkts", "InCsumErrors", "IPReversePathFilter",
    "IcmpInErrors", "IcmpInCsumErrors", "TcpInErrs", "TcpInCsumErrors", "UdpNoPorts", "UdpInErrors",
    "UdpRcvbufErrors", "UdpSndbufErrors", "UdpInCsumErrors", "UdpMemErrors", "UdpLiteNoPorts",
    "UdpLiteInErrors", "UdpLiteInCsumErrors",
    "Ip6InHdrErrors", "Ip6InTooBigErrors", "Ip6InNoRoutes", "Ip6InAddrErrors", "Ip6InUnknownProtos",
    "Ip6InTruncatedPkts", "Ip6InDiscards", "Ip6OutDiscards", "Ip6OutNoRoutes", "Ip6ReasmFails",
    "Ip6FragFails", "Icmp6InErrors", "Icmp6InCsumErrors", "Udp6NoPorts", "Udp6InErrors", "Udp6RcvbufErrors",
    "Udp6SndbufErrors", "Udp6InCsumErrors", "Udp6MemErrors",
    "ListenOverflows", "ListenDrops", "TCPBacklogDrop", "TCPRcvQDrop", "TCPZeroWindowDrop", "TCPMinTTLDrop",
    "TCPOFODrop", "TCPReqQFullDrop", "PFMemallocDrop", "RcvPruned", "OfoPruned", "SyncookiesFailed",
    "OutOfWindowIcmps", "LockDroppedIcmps", "PAWSActive", "PAWSEstab", "BeyondWindow", "TCPMD5NotFound",
    "TCPMD5Unexpected", "TCPMD5Failure", "TCPAOBad", "TCPAOKeyNotFound",
    "XfrmInError", "XfrmInHdrError", "XfrmInNoStates", "XfrmInStateProtoError", "XfrmInStateModeError",
    "XfrmInStateSeqError", "XfrmInStateExpired", "XfrmInStateMismatch", "XfrmInStateInvalid",
    "XfrmInTmplMismatch", "XfrmInNoPols", "XfrmInPolBlock", "XfrmInPolError", "XfrmOutError", "XfrmOutNoStates",
    "XfrmOutStateExpired", "XfrmOutPolBlock", "XfrmOutPolError", "XfrmFwdHdrError",
    "insert_failed", "drop", "early_drop", "chaintoolong", "cookie_invalid",
    "rx_errors", "rx_dropped", "tx_errors", "tx_dropped",
])  # fmt: skip
# What routing counts, where it drops a packet between PREROUTING and the next hook
_OF_ROUTING: Final[dict[Family, frozenset[str]]] = {
    "ipv4": frozenset(
        ["IPReversePathFilter", "InNoRoutes", "IpInAddrErrors", "IpInHdrErrors", "IpInDiscards", "IpFragFails"]
    ),
    "ipv6": frozenset(
        ["Ip6InNoRoutes", "Ip6InAddrErrors", "Ip6InHdrErrors", "Ip6InTooBigErrors", "Ip6InDiscards"]
    ),
}  # fmt: skip


class Rise(NamedTuple):
    """A counter, and by how much it rose."""

    counter: Counter
    by: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.counter} +{self.by:,}"


class Counts:
    """The counters of one namespace of a recording, each time that they were read."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace
        self._read = [
            (one.time_ns, counters(snapshots.counters(one.content)))
            for one in recording.snapshots("counters")
            if one.namespace == namespace
        ]

    def rose(self) -> list[Rise]:
        """The counters of discarded packets that rose, in the order of the kernel's list.

        Over the whole recording; of a ring, over the time of the events that it has kept.
        """
        before, after = self._both_ends()
        return [
            Rise(counter, by)
            for counter, value in after.items()
            if counter.name in _DISCARDS and (by := value - before.get(counter, value)) > 0
        ]

    def rise(self, counter: Counter) -> int | None:
        """How much a counter rose, None where it was not read at both ends; one that is missing counts 0."""
        values = [value for _, value in self._values(counter)]
        if len(values) < 2:  # noqa: PLR2004 - both ends
            return None
        return max(0, values[-1] - values[0])

    def rises(self, counter: Counter) -> list[tuple[int, int, int]]:
        """Between which looks (epoch, ns) a counter rose, and by how much."""
        return [
            (since_ns, until_ns, value - before)
            for (since_ns, before), (until_ns, value) in pairwise(self._values(counter))
            if value > before
        ]

    def _values(self, counter: Counter) -> list[tuple[int, int]]:
        """What a counter was, each time that those of its kind were read; one that is missing is 0."""
        return [
            (time_ns, one.get(counter, 0))
            for time_ns, one in self._read
            if any(each.of == counter.of for each in one)
        ]

    def meanwhile(self) -> dict[Family, str]:
        """What routing counted, in words for a packet that was not seen after PREROUTING; none for nothing."""
        rises = self.rose()
        said = {family: of_routing(rises, family) for family in _OF_ROUTING}
        return {family: in_words(some) for family, some in said.items() if some}

    def _both_ends(self) -> tuple[dict[Counter, int], dict[Counter, int]]:
        found = self._read
        if len(found) < 2:  # noqa: PLR2004 - both ends
            return {}, {}
        since = _kept_since(self._recording, self._namespace)
        before = [one for time_ns, one in found[:-1] if since is None or time_ns <= since]
        return (before or [found[0][1]])[-1 if since is not None else 0], found[-1][1]


def of_routing(rises: list[Rise], *families: Family) -> list[Rise]:
    """Those that may be of packets (of these families) which were not seen after PREROUTING."""
    names = {name for one in families or _OF_ROUTING for name in _OF_ROUTING[one]}
    return [one for one in rises if one.counter.name in names]


def in_words(rises: list[Rise]) -> str:
    """What rose, in words for packets that it may be about."""
    return f"{', '.join(f'{one.counter} rose by {one.by:,}' for one in rises)} meanwhile"


def _kept_since(recording: Recording, namespace: int) -> int | None:
    """From when on a ring has events; None without a ring, or where it has none."""
    for stream in recording.streams:
        if stream.namespace == namespace and stream.is_ring:
            first = next(iter(recording.chunks(stream.id)), None)
            return None if first is None else int(first.received_ns[0])
    return None
