"""Records of what the kernel dropped in one namespace, as what finds their packets; read bit by bit."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.decode import drops as decode
from iptrec.packets import drop_words
from iptrec.packets.ends import Death
from iptrec.packets.identity import DUMPED, combined
from iptrec.packets.udp_sums import Summed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.decode.drops import Drops
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.identity import Packets
    from iptrec.recording.rows import Chunk, Recording, Stream


class Cause(NamedTuple):
    """Reason and place of drops, by their names."""

    reason: str
    where: str

    @property
    def late(self) -> bool:
        """Whether it may come seconds after the last rule."""
        late = self.reason.startswith(drop_words.LATE)
        return late or drop_words.function(self.where) in drop_words.LATE_FUNCTIONS

    @property
    def routing(self) -> bool:
        """Whether it was dropped on its way from PREROUTING."""
        return drop_words.function(self.where) in drop_words.ROUTING

    @property
    def discarding(self) -> bool:
        """Whether it was dropped where something stands for its way, or for what takes it."""
        return drop_words.function(self.where) in drop_words.DISCARDING

    @property
    def leaving(self) -> bool:
        """Whether it was dropped at a device that it was to go out by."""
        of_device = self.reason.startswith(drop_words.OF_DEVICES)
        return of_device or drop_words.function(self.where).startswith(drop_words.LEAVING)

    @property
    def waiting(self) -> bool:
        """Whether it waited for a neighbour: who asks for that one clones it (net/core/neighbour.c)."""
        asked = self.reason.startswith(drop_words.NEIGHBOURS)
        return asked or drop_words.function(self.where) in drop_words.GIVING_UP

    @property
    def of_copy(self) -> bool:
        """Whether who dropped it gets a copy, or makes several."""
        return drop_words.function(self.where).startswith(drop_words.COPYING)

    @property
    def of_socket(self) -> bool:
        """Whether one socket dropped it, of which several may get a copy each."""
        return self.reason in drop_words.OF_SOCKETS

    @property
    def receiving(self) -> bool:
        """Whether who takes packets for this host dropped it."""
        return drop_words.function(self.where).startswith(drop_words.RECEIVING)

    @property
    def behind(self) -> bool:
        """Whether only packets are dropped there that are traced, if any of their kind is."""
        return drop_words.is_behind(self.where)

    @property
    def netfilter(self) -> bool:
        """Whether it is for rules to tell."""
        return self.reason == drop_words.NETFILTER

    def death(self, *, sure: bool) -> Death:
        """In words."""
        return Death(self.reason, self.where, drop_words.words(*self), sure)


def one_of(causes: Iterable[Cause], reason: str) -> Death:
    """What has this reason, at one of some places: these are told as far as they are the same."""
    some = [one for one in causes if one.reason == reason]
    wheres = {one.where for one in some}
    if len(wheres) > 1:
        wheres = {drop_words.function(one) for one in wheres}
    (where, *others) = wheres
    return Cause(reason, "" if others else where).death(sure=True)


class Records(NamedTuple):
    """Some records; shape (n,) each.

    ``key``, ``exact``: of packets, see `keys`. ``cut``: how many bytes of each were captured,
    `DUMPED` where keys need no more. ``nat_sum``: see `udp_sums`. ``end``: key of the destination, with its
    port. ``cause``: number of a `Cause`. ``device``: the index of the interface that it was at, 0 where that is
    not known. ``sent``: whether it came in by none. ``to``: the destination of IPv4, -1 of IPv6; ``group``:
    whether that is a multicast group, or 255.255.255.255. ``cloned``, ``alone``: see `decode.drops`.
    ``any_packet``: whether it may be of one that is not traced; ``iif``: the index of the interface that it
    came in by. ``elsewhere``: whether it may be of another namespace, or of a copy that was never traced.
    """

    time_ns: I64
    key: U64
    exact: U64
    cut: I64
    nat_sum: I64
    end: U64
    cause: I64
    device: I64
    sent: Mask
    to: I64
    group: Mask
    cloned: Mask
    alone: Mask
    any_packet: Mask
    iif: I64
    elsewhere: Mask

    @classmethod
    def none(cls) -> Records:
        """No records."""
        kinds = dict.fromkeys(_KEYS, np.uint64) | dict.fromkeys(_MASKS, np.bool_)
        empty: dict[str, Any] = {
            name: np.zeros(0, kinds.get(name, np.int64)) for name in cls._fields
        }
        return cls(**empty)

    def take(self, index: I64 | Mask) -> Records:
        """Some of them."""
        return Records(**{name: getattr(self, name)[index] for name in self._fields})


_KEYS: Final = ("key", "exact", "end")
_MASKS: Final = ("sent", "group", "cloned", "alone", "any_packet", "elsewhere")


class Flags(NamedTuple):
    """What the causes of some records are, see `Cause`; shape (n,) each."""

    netfilter: Mask
    routing: Mask
    receiving: Mask
    leaving: Mask
    discarding: Mask
    of_socket: Mask
    of_copy: Mask
    waiting: Mask
    late: Mask

    @classmethod
    def of(cls, causes: Sequence[Cause], records: Records) -> Flags:
        """Those of records."""
        each = ([getattr(one, name) for one in causes] for name in cls._fields)
        return cls(*(np.array(one, np.bool_)[records.cause] for one in each))

    def parts(self, some: I64, records: Records) -> list[I64]:
        """Records put together that are of one kind, and of one device."""
        device = np.where(records.any_packet, records.iif, records.device)
        columns = np.stack([*(one[some] for one in self), device[some]], axis=1)
        _, number = np.unique(columns, axis=0, return_inverse=True)
        number = number.reshape(-1)
        most = min(int(number.max()), _MOST_PARTS)
        return [some[number == kind] for kind in range(most + 1)]


_MOST_PARTS: Final = 64  # of one crowd of equal packets
# Of a stream: the kernel tells of none, or the drop monitor of those that have had a link header.
_NOT_ALL: Final = {"not_recorded", "source"}
_TOGETHER: Final = 1 << 13  # records that are decoded at once
# Bytes of IPv6, of IPv4: its header, and what follows tells packets apart; fewer of a shorter one.
_LEAST: Final = (48, 28)
_HEADERS: Final = (40, 20)
_DESTINATION: Final = 4  # of the columns that `Packets.ends` gives
_GROUP4, _GROUP6 = np.uint64(0xE0), np.uint64(0xFF)  # first bytes of addresses


def keys(packets: Packets, cut: int = DUMPED) -> tuple[U64, U64]:
    """What tells packets apart by ``cut`` bytes of each: what no rule rewrites, and what NAT does.

    Where several packets are equal in the first, the second tells them apart, mostly.
    """
    packets = packets.dumped(cut)
    first, later, missing = packets.transports()
    known = np.where(later | missing, np.uint64(0), first)
    exact = combined([packets.flow_keys(), known, packets.flags().astype(np.uint64)])
    return packets.keys(), exact


def told_all(recording: Recording, namespace: int) -> bool:
    """Whether the kernel told of all traced packets that it dropped, and nothing of that was lost."""
    streams = _streams(recording, namespace)
    lost = {one.stream for one in recording.losses}
    return bool(streams) and not any(
        one.id in lost or not _NOT_ALL.isdisjoint(one.detail) for one in streams
    )


def _streams(recording: Recording, namespace: int) -> list[Stream]:
    return [one for one in recording.streams if (one.kind, one.namespace) == ("drops", namespace)]


class DropRecords:
    """The records of a namespace; ``causes``: by their numbers."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace
        self._streams = [one.id for one in _streams(recording, namespace)]
        inodes = (one.inode for one in recording.namespaces if one.id == namespace)
        self._inode = next(inodes, 0)
        self._seen: dict[int, int] = {}
        self._read_to = 0  # epoch, ns
        self._chunks: Iterator[Chunk] = iter(())
        self._numbers: dict[Cause, int] = {}
        self._reasons: dict[int, str] = {}
        self._places: dict[int, str] = {}
        self.causes: list[Cause] = []

    @property
    def there(self) -> bool:
        """Whether any were recorded."""
        return bool(self._streams)

    @functools.cached_property
    def whole(self) -> bool:
        """Whether all drops of a recording that has ended are there."""
        return self._recording.facts.closed and told_all(self._recording, self._namespace)

    def read(self, until_ns: int, most: int) -> Iterator[Records]:
        """Those of some time (epoch) that were not read yet, about, and no more once there are so many."""
        while self._read_to <= until_ns and most > 0 and (chunks := self._next(until_ns, most)):
            found = self._decoded(chunks)
            most -= len(found.time_ns)
            yield found

    def late(self, records: Records) -> Mask:
        """Which of them may come seconds after the last rule."""
        late: Mask = np.array([one.late for one in self.causes], np.bool_)[records.cause]
        return late

    def _next(self, until_ns: int, most: int) -> list[Chunk]:
        """Some chunks: many are short, and read together."""
        found: list[Chunk] = []
        count = 0
        while self._read_to <= until_ns and count < min(most, _TOGETHER):
            if (chunk := self._next_chunk()) is None:
                break
            found.append(chunk)
            count += len(chunk.lengths)
            self._read_to = int(chunk.received_ns.max(initial=0))
        return found

    def _next_chunk(self) -> Chunk | None:
        found = next(self._chunks, None)
        if found is None:  # the file may have more by now
            self._chunks = self._read()
            found = next(self._chunks, None)
        return found

    def _read(self) -> Iterator[Chunk]:
        for stream in self._streams:
            for chunk in self._recording.chunks(stream, after=self._seen.get(stream, 0)):
                self._seen[stream] = chunk.id
                yield chunk

    def _decoded(self, chunks: list[Chunk]) -> Records:
        found = decode.decode(
            b"".join(one.data for one in chunks), np.concatenate([one.lengths for one in chunks])
        )
        # What seems to come after it was read would be kept for ever.
        read_ns = [
            np.full(len(one.lengths), one.received_ns.max(initial=0), np.int64) for one in chunks
        ]
        np.minimum(found.time_ns, np.concatenate(read_ns)[found.datagram], out=found.time_ns)
        ours = (found.netns == self._inode) | (found.netns == 0)
        return self._records(found.take(ours))

    def _records(self, drops: Drops) -> Records:
        pair = drops.reason.astype(np.int64) << 32 | (drops.place & 0xFFFFFFFF)
        distinct, inverse = np.unique(pair, return_inverse=True)
        told = [(one >> 32, one & 0xFFFFFFFF) for one in distinct.tolist()]
        if any(one not in self._reasons or at not in self._places for one, at in told):
            self._look_up()
        cause = np.array([self._number(*one) for one in told], np.int64)[inverse]
        least = np.where(drops.ipv6, *_LEAST)
        whole = np.where(drops.ipv6, *_HEADERS) + drops.payload
        enough = drops.size >= np.minimum(least, whole)
        own = np.flatnonzero((cause >= 0) & enough)
        drops, cause = drops.take(own), cause[own]
        packets = Summed(drops.data, drops.start, drops.start + drops.size, drops.ipv6)
        cut = np.where(drops.size < packets.rooms(), drops.size, DUMPED)
        to = packets.ends()[_DESTINATION]
        first = to & np.uint64(0xFF)
        behind = np.array([one.behind for one in self.causes], np.bool_)[cause]
        four = to.astype("<u4").byteswap().astype(np.int64)
        key, exact = keys(packets)
        return Records(
            time_ns=drops.time_ns,
            key=key,
            exact=exact,
            cut=cut,
            nat_sum=packets.nat_sums(),
            end=packets.end_keys()[1],
            cause=cause,
            device=drops.ifindex.astype(np.int64),
            sent=drops.iif == 0,
            to=np.where(drops.ipv6, -1, four),
            group=(first == _GROUP6) | (~drops.ipv6 & (first & np.uint64(0xF0) == _GROUP4)),
            cloned=drops.cloned,
            alone=drops.alone,
            any_packet=drops.any_packet,
            iif=drops.iif.astype(np.int64),
            elsewhere=drops.any_packet & ((drops.netns == 0) | ~behind),
        )

    def _number(self, reason: int, place: int) -> int:
        """The number of a cause, -1 for one that is no loss."""
        name = decode.reason_name(self._reasons, reason)
        cause = Cause(name, self._places.get(place, ""))
        if not drop_words.is_loss(*cause):
            return -1
        if cause not in self._numbers:
            self._numbers[cause] = len(self.causes)
            self.causes.append(cause)
        return self._numbers[cause]

    def _look_up(self) -> None:
        """Read the names again: while it is recorded more of them come."""
        for one in self._recording.snapshots("drop-reasons", "drop-places"):
            if one.namespace != self._namespace:
                continue
            if one.kind == "drop-reasons":
                self._reasons |= decode.reasons(one.content)
            else:
                self._places |= decode.places(one.content)
