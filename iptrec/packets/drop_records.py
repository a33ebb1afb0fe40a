"""Records of what the kernel dropped in one namespace, as what finds their packets; read bit by bit."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.context.devices import bridges
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
    def discarding(self) -> bool:
        """Whether it was dropped where something stands for its way, or for what takes it."""
        return drop_words.function(self.where) in drop_words.DISCARDING

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


class Records(NamedTuple):
    """Some records; shape (n,) each.

    ``key``, ``exact``: of packets, see `keys` and `exact_keys`. ``cut``: how many bytes of each were captured,
    `DUMPED` where keys need no more. ``cause``: number of a `Cause`. ``device``: the index of the interface
    that it was at, 0 where that is not known. ``any_packet``: whether it may be of one that is not traced;
    ``iif``: the index of the interface that it came in by, 0 where it was sent here. ``elsewhere``: whether it
    may be of another namespace, or of a copy that was never traced.
    """

    time_ns: I64
    key: U64
    exact: U64
    cut: I64
    cause: I64
    device: I64
    any_packet: Mask
    iif: I64
    elsewhere: Mask

    def take(self, index: I64 | Mask) -> Records:
        """Some of them."""
        return Records(
            self.time_ns[index], self.key[index], self.exact[index], self.cut[index],
            self.cause[index], self.device[index], self.any_packet[index], self.iif[index],
            self.elsewhere[index],
        )  # fmt: skip


_MOST: Final = 1 << 18  # records that are kept in mind: more are read later
_LEAST: Final = (48, 28)  # bytes of IPv6, of IPv4: its header, and what follows tells packets apart
_NO: Final = np.zeros(0, np.int64)
_NO_KEY: Final = np.zeros(0, np.uint64)
_NOWHERE: Final = np.zeros(0, np.bool_)
_DESTINATION: Final = 4  # of the columns that `Packets.ends` gives
_GROUP4, _GROUP6 = np.uint64(0xE0), np.uint64(0xFF)  # first bytes of addresses


def keys(packets: Packets, sent: Mask, cut: int = DUMPED) -> U64:
    """What tells packets apart by ``cut`` bytes of each: what no rule rewrites, and who was sent here."""
    return combined([packets.dumped(cut).keys(), sent.astype(np.uint64)])


def exact_keys(packets: Packets, sent: Mask, cut: int = DUMPED) -> U64:
    """The same with what NAT rewrites: where several packets have a key, this tells them apart, mostly."""
    packets = packets.dumped(cut)
    first, later, missing = packets.transports()
    known = np.where(later | missing, np.uint64(0), first)
    flags = packets.flags().astype(np.uint64)
    return combined([packets.flow_keys(), known, flags, sent.astype(np.uint64)])


def to_many(packets: Packets) -> Mask:
    """Which are for a group of hosts, or for all of a link: 224.0.0.0/4, ff00::/8, 255.255.255.255."""
    first = packets.ends()[_DESTINATION] & np.uint64(0xFF)
    many: Mask = (first == _GROUP6) | (first & np.uint64(0xF0) == _GROUP4)
    return many


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
        self._ahead = Records(_NO, _NO_KEY, _NO_KEY, _NO, _NO, _NO, _NOWHERE, _NO, _NOWHERE)

    @property
    def there(self) -> bool:
        """Whether any were recorded."""
        return bool(self._streams)

    @functools.cached_property
    def bridges(self) -> I64:
        """The indexes of the interfaces that are bridges."""
        return np.array(sorted(bridges(self._recording, self._namespace)), np.int64)

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
        device = drops.ifindex.astype(np.int64)
        found = keys(packets, sent), exact_keys(packets, sent)
        behind = np.array([one.behind for one in self.causes], np.bool_)[cause]
        elsewhere = drops.any_packet & ((drops.netns == 0) | ~behind)
        iif = drops.iif.astype(np.int64)
        return Records(drops.time_ns, *found, cut, cause, device, drops.any_packet, iif, elsewhere)

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
