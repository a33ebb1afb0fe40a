"""Whose sockets packets are of: of those that were there in the beginning, and in the end or closed before.

Nothing is told where it may have been another one, such as a socket that came later.
"""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.context.datagrams import datagrams
from iptrec.decode import sockets
from iptrec.decode.owners import NOBODY, Holders, Owner, shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.context.sockets import Sockets
    from iptrec.recording.rows import Recording, Snapshot

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6: Final = 6
_UNREAD_NS: Final = 1_000_000_000  # the end of a socket is known so much later, at most
_PLACE: Final = ("protocol", "address", "port", "peer", "peer_port", "index")


class Local(NamedTuple):
    """A packet of this host: its own end first, as a socket sees it. ``interface``: its number."""

    protocol: int
    address: IP
    port: int
    peer: IP
    peer_port: int
    interface: int
    sent: bool


@dataclass(frozen=True, slots=True)
class _Socket:
    """``owner``: None where it may have come later, or been another one by then.

    ``since_ns`` to ``until_ns``: when it was there for sure. ``gone_ns``: from then on it was not.
    """

    address: IP
    peer: IP | None
    peer_port: int
    index: int
    both: bool  # families
    owner: Owner | None
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


class SocketOwners:
    """Those of one namespace of a recording that is closed."""

    def __init__(self, recording: Recording, namespace: int, sockets: Sockets) -> None:
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
                one = _socket(row, owner, lists[0].time_ns, gone_ns)
                found.setdefault((row["protocol"], row["port"]), []).append(one)
        return found

    def of(self, packet: Local, first_ns: int, last_ns: int) -> Owner | None:
        """Who sent it, or is to get it, between two times; None where that is not sure."""
        every = self.sockets.get((packet.protocol, packet.port), [])
        fitting = [one for one in every if first_ns < one.gone_ns and one.fits(packet)]
        if not packet.sent:
            fitting = [one for one in fitting if not any(two.is_before(one) for two in fitting)]
        owners = [owner for one in fitting if (owner := one.at(first_ns, last_ns))]
        if not owners or len(owners) < len(fitting):
            return None
        found = shared(owners)
        return None if found == NOBODY else found

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


def _socket(row: dict[str, Any], owner: Owner | None, since_ns: int, gone_ns: float) -> _Socket:
    address, peer = (_plain(row[name]) for name in ("address", "peer"))
    return _Socket(
        address=address,
        peer=peer if row["peer_port"] else None,
        peer_port=row["peer_port"],
        index=row["index"],
        both=address.version == _IPV6 and address.is_unspecified and not row["v6only"],
        owner=owner,
        since_ns=since_ns,
        until_ns=gone_ns - _UNREAD_NS,
        gone_ns=gone_ns,
    )


def _plain(text: str) -> IP:
    """IPv4 in an IPv6 socket as IPv4."""
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
