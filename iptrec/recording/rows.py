"""The rows of a recording, as the writer takes them and the reader gives them.

Times are nanoseconds since the epoch (CLOCK_REALTIME) unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from iptrec.recording.kinds import STREAMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from iptrec.recording.packing import Notes


_MOST_LEFT: Final = 1 << 62  # packets, or events
_NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """The one row about the recording itself."""

    uuid: str
    iptrec: str  # version of iptrec that recorded
    kernel: str  # uname -srvm
    host: str
    command: tuple[str, ...]  # argv of `iptrec record`
    filter: str | None  # pcap expression as the user wrote it
    families: tuple[str, ...]  # "ipv4", "ipv6"
    interfaces: tuple[str, ...]  # --iface, () for all
    snaplen: int  # bytes of each packet that were asked for
    started_ns: int
    started_monotonic_ns: int  # CLOCK_MONOTONIC at started_ns
    byte_order: str = "little"  # of the host, and so of the netlink messages
    stopped_ns: int | None = None
    stop_reason: str | None = None  # "SIGINT", "duration", "command", ... ; None when cut off
    closed: bool = False  # the writer ended cleanly

    @property
    def begun(self) -> tuple[str, int]:
        """What copies of one recording have in common; files of one recorder began one after the other."""
        return self.uuid, self.started_ns


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that was recorded."""

    id: int
    name: str | None  # as the user named it; None for the one that iptrec was started in
    inode: int  # of /proc/PID/ns/net


@dataclass(frozen=True, slots=True)
class Stream:
    """A sequence of raw netlink datagrams out of one socket."""

    id: int
    namespace: int
    kind: str  # see `kinds.STREAMS`
    detail: dict[str, Any] = field(default_factory=dict)  # group, receive_buffer, conntrack, ...

    def told(self, mark: int, *, policy: bool) -> int | None:
        """The mark of an event, of a policy or of something else; None where it is not told."""
        untold = self.untold and (
            "mark" in self.untold or (not policy and "mark of rules" in self.untold)
        )
        return None if untold else mark

    @property
    def is_ring(self) -> bool:
        """Whether only its last datagrams were kept, as --ring asks for."""
        return bool(self.detail.get("ring_s") or self.detail.get("ring_bytes"))

    @property
    def untold(self) -> frozenset[str]:
        """What its packets' bytes do not tell, though they are there: it was made of text (`iptrec import`).

        Names of `decode.packet.header`, and "ecn": the last bit of IPv4's TOS; "mark": of events; "mark of
        rules": of events but those of policies.
        """
        names = self.detail.get("untold")
        return (
            frozenset(one for one in names if isinstance(one, str))
            if isinstance(names, list)
            else _NOTHING
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Many datagrams of one stream, in order of arrival.

    ``data`` is the datagrams back to back without padding; datagram i has ``lengths[i]`` bytes and
    was received at ``received_ns[i]``. ``notes``: what the recorder's tap noted of them, if it had one.
    """

    id: int
    stream: int
    received_ns: npt.NDArray[np.int64]  # shape (n,)
    lengths: npt.NDArray[np.uint32]  # shape (n,), bytes
    data: bytes
    notes: Notes | None = None

    def datagrams(self) -> Iterator[tuple[int, bytes]]:
        """When each was sent, where that was noted, else received (epoch, ns), and its bytes."""
        start, notes, received_ns = 0, self.notes, self.received_ns
        times = received_ns if notes is None else notes.times(received_ns)
        for size, time_ns in zip(self.lengths.tolist(), times.tolist(), strict=True):
            yield time_ns, self.data[start : start + size]
            start += size


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a command printed, or a dump returned, and from when on it held.

    ``kind``: see `kinds.SNAPSHOTS`. ``media``: "text", "json" or "netlink", see the schema of the file; in
    `decode.snapshots` is what reads them.

    Of rulesets the first one is whole. Each further one has a single table, without comments and with
    its counters 0, and says that this table changed. "iptables-unknown", "ip6tables-unknown" have a
    table's name: it changed to something that was gone again before it could be read.
    """

    id: int
    namespace: int
    kind: str
    time_ns: int
    source: str  # the command line, or the name of the dump
    content: bytes
    after_ns: int | None = None  # it came to be so after this time and not after ``time_ns``
    media: str = "text"


@dataclass(frozen=True, slots=True)
class Loss:
    """Events that the kernel sent and we did not get.

    ``how``: "sequence" (a gap in NFULA_SEQ: ``events`` is exact), "enobufs" (the kernel said that
    it dropped some; the gap that counts them follows, ``events`` is None), "truncated" (datagrams
    longer than the slot, cut), "rules-gone", "logger-switched" (somebody removed our TRACE rules, or
    switched the logger: nothing was traced until it was put back), "ring-full" (reasons of drops, or
    facts about senders, that found no room: no event is missing), "overflow" (events that found no room in the
    tap's ring and came through the socket, so many that when each was sent is not known; none is missing).
    It is between the last event that was sent before it and the first one after it, by the kernel's times where
    those are known; else between what the recorder knows for sure.
    """

    stream: int
    first_ns: int  # the loss happened between these two times
    last_ns: int
    events: int | None
    how: str

    @property
    def of_events(self) -> bool:
        """Whether events are missing, not reasons of drops or times."""
        return self.how not in ("ring-full", "overflow")


class Recording(Protocol):
    """What the analysis needs of a recording; `reader.Reader` is one."""

    @property
    def facts(self) -> Facts:
        """The recording itself."""

    @property
    def namespaces(self) -> Sequence[Namespace]:
        """All namespaces."""

    @property
    def streams(self) -> Sequence[Stream]:
        """All streams."""

    @property
    def losses(self) -> Sequence[Loss]:
        """All losses, in order."""

    def snapshots(self, *kinds: str) -> Iterable[Snapshot]:
        """The snapshots (of some kinds), in order of time; read one by one, since all together may be large."""

    def newest_snapshot(self) -> int:
        """The id of the last one, 0 if there is none: it tells whether there are more."""

    def chunks(self, stream: int | None = None, after: int = 0) -> Iterator[Chunk]:
        """The chunks (of a stream), in order, whose id is greater than ``after``."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What `iptrec pack` left out of a recording because it was not chosen."""

    packets: int
    events: int


LEFT_OUT: Final = "left_out"  # in the detail of streams
REMARKS: Final = "remarks"  # likewise: a list of what `import` had to say, as a user reads it


def left_out(recording: Recording) -> LeftOut | None:
    """The same as the streams say it, which anybody may have written; None where nothing was left out."""
    found = [one.detail[LEFT_OUT] for one in recording.streams if LEFT_OUT in one.detail]
    if not found:
        return None
    return LeftOut(*(sum(_count(one, name) for one in found) for name in ("packets", "events")))


def _count(detail: object, name: str) -> int:
    value = detail.get(name) if isinstance(detail, dict) else None
    return value if isinstance(value, int) and 0 <= value < _MOST_LEFT else 0


def lost_events(recording: Recording) -> list[Loss]:
    """The losses of events of traces, in order: not of what was recorded beside them."""
    streams = {one.id for one in recording.streams if _has_events(one)}
    return [one for one in recording.losses if one.stream in streams and one.of_events]


def lost_beside(recording: Recording) -> list[tuple[Stream, Loss]]:
    """The losses of streams beside the events of traces that the kernel had no room for."""
    beside = {one.id: one for one in recording.streams if not _has_events(one)}
    return [
        (beside[one.stream], one)
        for one in recording.losses
        if one.stream in beside and one.of_events
    ]


def _has_events(stream: Stream) -> bool:
    return stream.kind in STREAMS and STREAMS[stream.kind].events
