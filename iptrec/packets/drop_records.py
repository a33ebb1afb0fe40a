"""Records of what the kernel dropped in one namespace, as what finds their packets; read bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode import drops as decode
from iptrec.packets import drop_words
from iptrec.packets.ends import Death
from iptrec.packets.identity import DUMPED, Packets, combined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.decode.drops import Drops
    from iptrec.names import I64, U64, Mask
    from iptrec.recording.rows import Recording


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
    def receiving(self) -> bool:
        """Whether who takes packets for this host dropped it."""
        return drop_words.function(self.where).startswith(drop_words.RECEIVING)

    @property
    def leaving(self) -> bool:
        """Whether it was dropped at the device that it goes out by."""
        return drop_words.function(self.where).startswith(drop_words.LEAVING)

    @property
    def discarding(self) -> bool:
        """Whether a route discarded it, or INPUT, as nothing follows its headers."""
        return drop_words.function(self.where) in drop_words.DISCARDING

    @property
    def of_socket(self) -> bool:
        """Whether one of the sockets dropped it that it was for."""
        return drop_words.function(self.where).startswith(drop_words.OF_SOCKETS)

    @property
    def netfilter(self) -> bool:
        """Whether it is for rules to tell."""
        return self.reason == drop_words.NETFILTER

    def death(self, *, sure: bool, text: str = "") -> Death:
        """In words: those for such a drop, unless others are better."""
        return Death(self.reason, self.where, text or self.words, sure)

    @property
    def words(self) -> str:
        """What it means."""
        return drop_words.words(*self)


class Keys(NamedTuple):
    """What tells packets apart; shape (n,) each.

    ``key``: what no rule rewrites, and who was sent here. ``source``, ``destination``: what NAT does.
    ``exact``: all of it, with the first bytes of the transport header; where several packets have a key, this
    tells them apart, mostly.
    """

    key: U64
    source: U64
    destination: U64
    exact: U64


class Records(NamedTuple):
    """Some records; shape (n,) each.

    ``cut``: how many bytes of each packet were captured, `DUMPED` where keys need no more. ``cause``: number of
    a `Cause`. ``device``: index of the one that it was at; 0: not known. ``cloned``: see `decode.drops`.
    ``group``: whether it goes to a group; ``many``: or may be a broadcast.
    """

    time_ns: I64
    key: U64
    source: U64
    destination: U64
    exact: U64
    cut: I64
    cause: I64
    device: I64
    cloned: Mask
    group: Mask
    many: Mask

    def take(self, index: I64 | Mask) -> Records:
        """Some of them."""
        return Records(**{name: getattr(self, name)[index] for name in Records._fields})


_MOST: Final = 1 << 18  # records that are kept in mind: more are read later
GAP: Final = 40  # bytes before a gap: nf_tables dumps so many then, and the transport header apart
_LEAST: Final = (48, 28)  # bytes of IPv6, of IPv4: its header, and what follows tells packets apart
_NO: Final = np.zeros(0, np.int64)


def keys(packets: Packets, sent: Mask, cut: int = DUMPED, transport: U64 | None = None) -> Keys:
    """The keys of packets by ``cut`` bytes of each; ``transport``: see `transports`."""
    dumped = packets.dumped(cut)
    key = combined([dumped.keys(), sent.astype(np.uint64)])
    source, destination = dumped.end_keys()
    flags = np.where(packets.rooms() == GAP, 0, packets.flags()).astype(np.uint64)
    first = transports(packets) if transport is None else transport
    return Keys(key, source, destination, combined([key, source, destination, first, flags]))


def transports(packets: Packets) -> U64:
    """The first bytes of each transport header, 0 where they are not known."""
    first, later, cut = packets.transports()
    return np.where(later | cut, np.uint64(0), first)


class DropRecords:
    """The records of a namespace; ``causes``: by their numbers."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace
        self._streams = [
            one.id
            for one in recording.streams
            if one.kind == "drops" and one.namespace == namespace
        ]
        inodes = (one.inode for one in recording.namespaces if one.id == namespace)
        self._inode = next(inodes, 0)
        self._seen: dict[int, int] = {}
        self._read_to = 0  # epoch, ns
        self._chunks: Iterator[Records] = iter(())
        self._numbers: dict[Cause, int] = {}
        self._reasons: dict[int, str] = {}
        self._places: dict[int, str] = {}
        self.causes: list[Cause] = []
        none = np.zeros(0, np.uint64)
        no = np.zeros(0, np.bool_)
        self._ahead = Records(_NO, none, none, none, none, _NO, _NO, _NO, no, no, no)

    @property
    def there(self) -> bool:
        """Whether any were recorded."""
        return bool(self._streams)

    def between(self, since_ns: int, until_ns: int) -> Records:
        """Those of some time (epoch), about, that were not forgotten; the times that are asked for go on."""
        parts, count = [self._ahead], len(self._ahead.time_ns)
        while self._read_to <= until_ns and count < _MOST and (found := self._next()) is not None:
            parts.append(found)
            count += len(found.time_ns)
        ahead = Records(*(np.concatenate(some) for some in zip(*parts, strict=True)))
        self._ahead = ahead.take(ahead.time_ns >= since_ns)
        return self._ahead

    def forget(self, used: Mask) -> None:
        """Some of those that `between` gave last are not needed any more."""
        self._ahead = self._ahead.take(~used)

    def _next(self) -> Records | None:
        found = next(self._chunks, None)
        if found is None:  # the file may have more by now
            self._chunks = self._read()
            found = next(self._chunks, None)
        return found

    def _read(self) -> Iterator[Records]:
        for stream in self._streams:
            for chunk in self._recording.chunks(stream, after=self._seen.get(stream, 0)):
                self._seen[stream] = chunk.id
                self._read_to = int(chunk.received_ns.max(initial=0))
                found = decode.decode(chunk.data, chunk.lengths)
                np.minimum(found.time_ns, self._read_to, out=found.time_ns)  # else kept for ever
                ours = (found.netns == self._inode) | (found.netns == 0)
                yield self._records(found.take(ours))

    def _records(self, drops: Drops) -> Records:
        pair = drops.reason.astype(np.int64) << 32 | (drops.place & 0xFFFFFFFF)
        distinct, inverse = np.unique(pair, return_inverse=True)
        told = [(one >> 32, one & 0xFFFFFFFF) for one in distinct.tolist()]
        if any(one not in self._reasons or at not in self._places for one, at in told):
            self._look_up()
        cause = np.array([self._number(*one) for one in told], np.int64)[inverse]
        own = np.flatnonzero((cause >= 0) & (drops.size >= np.where(drops.ipv6, *_LEAST)))
        drops, cause = drops.take(own), cause[own]
        packets = Packets(drops.data, drops.start, drops.start + drops.size, drops.ipv6)
        cut = np.where(drops.size < packets.rooms(), drops.size, DUMPED)
        sent = drops.iif == 0
        return Records(
            drops.time_ns, *keys(packets, sent), cut, cause, drops.ifindex.astype(np.int64), drops.cloned,
            drops.to_group, drops.to_many,
        )  # fmt: skip

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
