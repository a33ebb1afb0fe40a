"""Whose sockets packets are of.

Lists tell of those that were there in the beginning, and in the end or closed before; the kernel told of those
that come and go, when they first sent. Nothing is told where it may have been another one.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.context.datagrams import datagrams
from iptrec.context.senders import Sender, Senders
from iptrec.decode import sockets
from iptrec.decode.owners import NOBODY, Holders, Owner, shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.context.sockets import Sockets
    from iptrec.names import I64
    from iptrec.recording.rows import Recording, Snapshot

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6: Final = 6
_TCP, _UDP = 6, 17
_UNREAD_NS: Final = 1_000_000_000  # the end of a socket is known so much later, at most
_NEVER: Final = 1 << 63
_PLACE: Final = ("protocol", "address", "port", "peer", "peer_port", "index")


class Local(NamedTuple):
    """A packet of this host: its own end first, as a socket sees it.

    ``port``: of echo requests that were sent, and of their answers, the id. ``interface``: its number.
    ``begins``: whether it is the first of a connection of TCP.
    """

    protocol: int
    address: IP
    port: int
    peer: IP
    peer_port: int
    interface: int
    sent: bool
    begins: bool


class When(NamedTuple):
    """Between which times (epoch, ns) a packet passed its first to its last rule, and when likely its first."""

    earliest_ns: int
    likely_ns: int
    latest_ns: int


@dataclass(frozen=True, slots=True)
class _Socket:
    """``owner``: None where it may have come later, or been another one by then.

    ``since_ns`` to ``until_ns``: when it was there for sure. ``gone_ns``: from then on it was not. ``inode``: 0
    where that is not told.
    """

    address: IP
    peer: IP | None
    peer_port: int
    index: int
    both: bool  # families
    owner: Owner | None
    inode: int = 0
    since_ns: float = math.inf
    until_ns: float = -math.inf
    gone_ns: float = math.inf

    def fits(self, packet: Local) -> bool:
        """Whether it may have sent the packet, or get it."""
        if self.address.version != packet.address.version and not self.both:
            return False
        if self._bound and self.address != packet.address:
            return False
        if packet.sent:  # sendto(2) is not bound to its peer
            return True
        peer = self.peer is None or (self.peer, self.peer_port) == (packet.peer, packet.peer_port)
        return peer and self.index in (0, packet.interface)

    def at(self, first_ns: int, last_ns: int) -> Owner | None:
        """Whose it was; None where that is not sure."""
        return self.owner if self.since_ns <= first_ns and last_ns < self.until_ns else None

    @property
    def _bound(self) -> bool:
        return not self.address.is_unspecified

    def is_before(self, other: _Socket) -> bool:
        """Whether it, and not the other one, gets what fits both."""
        one, two = self._asks(), other._asks()
        return one != two and all(a >= b for a, b in zip(one, two, strict=True))

    def _asks(self) -> tuple[bool, ...]:
        return self._bound, self.peer is not None, self.index != 0


class _Seen(NamedTuple):
    """What lists tell of the senders of a port of UDP.

    ``gone_ns``: inode -> when the socket was gone, of those that were closed. ``silent``: sockets that no
    sender has. None: the lists are not whole.
    """

    gone_ns: dict[int, float]
    silent: list[_Socket] | None


class SocketOwners:
    """Those of one namespace of a recording; lists tell only of one that is closed.

    ``hears_senders``: whether what the kernel told of who sends is to be believed.
    """

    def __init__(self, recording: Recording, namespace: int, sockets: Sockets) -> None:
        self.senders = Senders(recording, namespace)
        self.hears_senders = True
        self._of_ports: dict[int, _Seen] = {}
        self._told = sockets
        self._recording = recording
        self._namespace = namespace

    @cached_property
    def sockets(self) -> dict[tuple[int, int], list[_Socket]]:
        """By protocol and port; empty where nothing is known."""
        lists, holders = self._snapshots("sockets"), self._snapshots("owners")
        if not holders or self._told.ports is None:
            return {}
        told = Holders(holders[0].content)
        first, last = self._told.listed
        closed = dict(self._closed())
        found: dict[tuple[int, int], list[_Socket]] = {}
        for cookie in first.keys() | last.keys() | closed.keys():
            gone_ns, ended = closed.get(cookie, (math.inf, None))
            rows = [one for one in (first.get(cookie), last.get(cookie), ended) if one]
            sure = cookie in first and len(rows) > 1 and _is_one(rows)
            for row in rows[:1] if sure else rows:
                owner = told.of(row) if sure else None
                inode = max(one["inode"] for one in rows)  # it is not told of those that are gone
                one = _socket(row, owner, inode, lists[0].time_ns, gone_ns)
                found.setdefault((row["protocol"], row["port"]), []).append(one)
        return found

    def update(self) -> None:
        """Read what has come since the last time."""
        self.senders.update()
        self._of_ports = {}

    def ports(self) -> I64:
        """Protocol and port of all that is known, as one number each."""
        listed = [protocol << 16 | port for protocol, port in self.sockets]
        known = np.concatenate([self.senders.ports, np.array(listed, np.int64)])
        return np.unique(known, return_index=True)[0]  # asked so, it loads nothing more

    def moments(self, protocol: int, port: int) -> I64:
        """The times (epoch, ns), in order, at which something that is known of a port begins or ends.

        `of` tells the same of a packet whose times lie between the same two of them.
        """
        listed = self.sockets.get((protocol, port), [])
        times = [time for one in listed for time in (one.since_ns, one.until_ns, one.gone_ns)]
        times += self.senders.moments(protocol, port)
        # No packet has a time beyond 64 bits.
        return np.array(sorted({int(one) for one in times if abs(one) < _NEVER}), np.int64)

    def of(self, packet: Local, when: When) -> Owner | None:
        """Who sent it, or is to get it; None where that is not sure."""
        found = self._listed(packet, when)
        # Who has accepted a connection is more than who listens; of a socket that came before another file
        # was begun its list has no process.
        if found is None or found.comm is None or packet.protocol == _TCP:
            told = self._told_of(packet, when)
            if told is not None and (found is None or told.comm is not None):
                found = told
        return None if found == NOBODY else found

    def _listed(self, packet: Local, when: When) -> Owner | None:
        """By the lists of the beginning and the end."""
        _, first_ns, last_ns = when
        every = self.sockets.get((packet.protocol, packet.port), [])
        fitting = [one for one in every if first_ns < one.gone_ns and one.fits(packet)]
        if not packet.sent:
            fitting = [one for one in fitting if not any(two.is_before(one) for two in fitting)]
        owners = [owner for one in fitting if (owner := one.at(first_ns, last_ns))]
        return shared(owners) if owners and len(owners) == len(fitting) else None

    def _told_of(self, packet: Local, when: When) -> Owner | None:
        """By those who sent."""
        if not self.hears_senders or self.senders.lost(when.earliest_ns, when.latest_ns):
            return None
        fitting = self._fitting(packet)
        if not fitting:
            return None
        if packet.protocol == _TCP:
            found = self._connected(packet, fitting, when)
        elif packet.protocol == _UDP:
            found = self._of_datagram(packet, fitting, when)
        else:
            found = [one for one in fitting if one.since_ns <= when.latest_ns]
        # One process may be told of by several names, or ends, of a socket: it has the latest.
        latest = {(one.inode, one.owner.pid): one for one in sorted(found, key=_since)}
        return shared([one.owner for one in latest.values()]) if latest else None

    def _fitting(self, packet: Local) -> list[Sender]:
        """Those that may have sent the packet, or may get it, at some time; connected ones first."""
        where = packet.protocol, packet.port
        connected = self.senders.with_peer(*where, packet.peer, packet.peer_port)
        if packet.protocol == _TCP:
            found = connected
        elif packet.sent:
            found = connected + self.senders.without(*where) or self.senders.every(*where)
        else:
            found = connected or self.senders.without(*where)
        return [one for one in found if one.is_at(packet.address)]

    def _connected(self, packet: Local, fitting: list[Sender], when: When) -> list[Sender]:
        """Those of a connection; the next one with the same ends may have begun before it was told of."""
        if packet.begins and not packet.sent:  # for whoever listens
            return []
        if any(one.fresh for one in fitting) and (_TCP, packet.port) in self.sockets:
            return []  # who listens there may have had a connection with the same ends
        found = []
        for one in fitting:
            others = [two for two in fitting if two.inode != one.inode]
            after = min(
                (two for two in others if two.since_ns > one.since_ns), key=_since, default=None
            )
            ended = after is not None and after.since_ns <= when.earliest_ns
            if one.since_ns <= when.latest_ns and not ended:
                found.append(one)
                found += [after] if after is not None and not after.fresh else []
        return found

    def _of_datagram(self, packet: Local, fitting: list[Sender], when: When) -> list[Sender]:
        """Those of UDP that were there: who sends was told of before, who gets it perhaps never."""
        first_ns, likely_ns, last_ns = when
        seen = self._seen(packet.port)
        gone_ns = {one: seen.gone_ns.get(one.inode, math.inf) for one in fitting}
        found = [one for one in fitting if one.since_ns <= last_ns and first_ns < gone_ns[one]]
        if packet.sent or not found:
            return found
        bound = [one for one in found if one.peer is None]
        if bound and (seen.silent is None or any(one.since_ns > likely_ns for one in bound)):
            return []
        silent = [one for one in seen.silent or () if first_ns < one.gone_ns and one.fits(packet)]
        if any(bound or one.peer for one in silent):
            return []
        until = max(gone_ns[one] for one in found)
        if first_ns >= until - _UNREAD_NS and any(
            last_ns < one.since_ns <= until + _UNREAD_NS for one in fitting
        ):
            return []
        return found

    def _seen(self, port: int) -> _Seen:
        """Which sockets of UDP were closed when: by their inodes, else in the order in which they came."""
        if port not in self._of_ports:
            senders = self.senders.every(_UDP, port)
            whole = self._told.ports is not None
            entries = self.sockets.get((_UDP, port), [])
            gone_ns = {one.inode: one.gone_ns for one in entries if one.inode}
            left = sorted((one for one in entries if not one.inode), key=lambda one: one.gone_ns)
            for inode, one in {two.inode: two for two in reversed(senders)}.items():
                if inode in gone_ns:
                    continue
                told_ns = max(two.told_ns for two in senders if two.inode == inode)
                ended = next(
                    (two for two in left if two.gone_ns >= told_ns and _alike(two, one)), None
                )
                if ended is not None:
                    left.remove(ended)
                    gone_ns[inode] = ended.gone_ns
            known = {one.inode for one in senders}
            silent = left + [one for one in entries if one.inode and one.inode not in known]
            self._of_ports[port] = _Seen(gone_ns, silent if whole else None)
        return self._of_ports[port]

    def _snapshots(self, kind: str) -> list[Snapshot]:
        every = self._recording.snapshots(kind)
        return [one for one in every if one.namespace == self._namespace]

    def _closed(self) -> Iterator[tuple[int, tuple[int, dict[str, Any]]]]:
        for time_ns, datagram in datagrams(self._recording, "sockets", self._namespace):
            for row in sockets.ended(datagram):
                yield row["cookie"], (time_ns, row)


def _is_one(rows: list[dict[str, Any]]) -> bool:
    """Whether a socket was bound and connected to the same all the time."""
    return len({tuple(row[name] for name in _PLACE) for row in rows}) == 1


def _socket(
    row: dict[str, Any], owner: Owner | None, inode: int, since_ns: int, gone_ns: float
) -> _Socket:
    address, peer = (_plain(row[name]) for name in ("address", "peer"))
    return _Socket(
        address=address,
        peer=peer if row["peer_port"] else None,
        peer_port=row["peer_port"],
        index=row["index"],
        both=address.version == _IPV6 and address.is_unspecified and not row["v6only"],
        owner=owner,
        inode=inode,
        since_ns=since_ns,
        until_ns=gone_ns - _UNREAD_NS,
        gone_ns=gone_ns,
    )


def _since(one: Sender) -> int:
    return one.since_ns


def _alike(one: _Socket, sender: Sender) -> bool:
    """Whether a socket that was closed may be that of a sender."""
    if one.address.version != sender.address.version and not one.both:
        return False
    ends = one.address, sender.address
    return ends[0] == ends[1] or any(end.is_unspecified for end in ends)


def _plain(text: str) -> IP:
    """IPv4 in an IPv6 socket as IPv4."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
