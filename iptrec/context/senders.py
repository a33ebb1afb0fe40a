"""Which programs sent by which sockets, as the kernel told when each first did."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iptrec.decode import senders as decode
from iptrec.decode.owners import in_group

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from iptrec.decode.owners import Owner
    from iptrec.names import I64
    from iptrec.recording.rows import Recording

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_SYN_SENT: Final = 2
_BYTES: Final = {4: 4, 6: 16}  # of an address
_MOST: Final = 1000  # sockets of one port that are looked at one by one


@dataclass(frozen=True, slots=True)
class Sender:
    """A process that sends by a socket (``inode``), since a time; ``told_ns``: when that was told last.

    ``fresh``: the first packet of a connection was its own, so the socket was not there before.
    """

    inode: int
    owner: Owner
    address: IP
    peer: IP | None
    peer_port: int
    since_ns: int
    told_ns: int
    fresh: bool

    def is_at(self, address: IP) -> bool:
        """Whether what it sends may have this source, and what it gets this destination."""
        if self.address.version != address.version:
            return False
        return self.address.is_unspecified or self.address == address


class _Port(NamedTuple):
    """The senders of a protocol's port, in the order of time, and by their peers."""

    every: list[Sender]
    by_peer: dict[tuple[IP | None, int], list[Sender]]


class Senders:
    """Those of one namespace of a recording, which may go on.

    ``ports``: protocol and port of each, as one number, in order.
    """

    ports: I64

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace
        self._streams = [
            one.id
            for one in recording.streams
            if (one.kind, one.namespace) == ("senders", namespace)
            and "not_recorded" not in one.detail
        ]
        self._seen: dict[int, int] = {}
        self._table = decode.decode(b"", np.zeros(0, np.uint32))
        self._sort()

    def update(self) -> None:
        """Read what has come since the last time."""
        parts = list(self._read())
        self._losses = [one for one in self._recording.losses if one.stream in self._streams]
        if parts:
            self._table = _merged(np.concatenate([self._table, *parts]))
            self._sort()

    def _read(self) -> Iterator[npt.NDArray[np.void]]:
        for stream in self._streams:
            for chunk in self._recording.chunks(stream, after=self._seen.get(stream, 0)):
                self._seen[stream] = chunk.id
                yield decode.decode(chunk.data, chunk.lengths)

    def _sort(self) -> None:
        """Put those of a port together."""
        table = self._table
        keys = table["protocol"].astype(np.int64) << 16 | table["port"]
        self._order = np.lexsort((table["since"], keys))
        self.ports, begin = np.unique(keys[self._order], return_index=True)
        self._end = dict(zip(self.ports.tolist(), [*begin[1:].tolist(), len(keys)], strict=False))
        self._begin = dict(zip(self.ports.tolist(), begin.tolist(), strict=True))
        self._known: dict[int, _Port] = {}
        self._paths: dict[int, str] = {}
        for one in self._recording.snapshots("sender-cgroups"):
            if one.namespace == self._namespace:
                self._paths |= decode.paths(one.content)

    def with_peer(self, protocol: int, port: int, peer: IP, peer_port: int) -> list[Sender]:
        """Those of a port that are connected to this peer."""
        return self._port(protocol, port).by_peer.get((peer, peer_port), [])

    def without(self, protocol: int, port: int) -> list[Sender]:
        """Those of a port that are not connected."""
        return self._port(protocol, port).by_peer.get((None, 0), [])

    def every(self, protocol: int, port: int) -> list[Sender]:
        """Those of a port, in the order of time; none where there are too many."""
        found = self._port(protocol, port).every
        return found if len(found) <= _MOST else []

    def lost(self, first_ns: int, last_ns: int) -> bool:
        """Whether anything was lost that was to be told meanwhile."""
        return any(one.first_ns <= last_ns and first_ns <= one.last_ns for one in self._losses)

    def moments(self, protocol: int, port: int) -> list[int]:
        """When those of a port first sent, and what was lost began and ended (epoch, ns)."""
        lost = [time for one in self._losses for time in (one.first_ns, one.last_ns)]
        return [one.since_ns for one in self._port(protocol, port).every] + lost

    def _port(self, protocol: int, port: int) -> _Port:
        key = protocol << 16 | port
        if key not in self._known:
            rows = self._order[self._begin.get(key, 0) : self._end.get(key, 0)]
            every = [self._sender(one) for one in self._table[rows] if int(one["family"]) in _BYTES]
            found = self._known[key] = _Port(every, {})
            for one in every:
                found.by_peer.setdefault((one.peer, one.peer_port), []).append(one)
        return self._known[key]

    def _sender(self, fact: Any) -> Sender:  # noqa: ANN401 - a row of the table
        size = _BYTES[int(fact["family"])]
        address, peer = (
            ipaddress.ip_address(fact[name].tobytes()[:size]) for name in ("address", "peer")
        )
        path = self._paths.get(int(fact["cgroup"]))
        comm = fact["comm"].decode("utf-8", "backslashreplace")
        peer_port = int(fact["peer_port"])
        return Sender(
            inode=int(fact["inode"]),
            owner=in_group(path, int(fact["uid"]), int(fact["pid"]), comm),
            address=address,
            peer=peer if peer_port else None,
            peer_port=peer_port,
            since_ns=int(fact["since"]),
            told_ns=int(fact["time"]),
            fresh=int(fact["state"]) == _SYN_SENT,
        )


def _merged(table: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Each fact once, however often it was told: since when it was told first."""
    size = table.dtype.itemsize
    made_by = np.ascontiguousarray(table.view(np.uint8).reshape(-1, size)[:, : decode.MADE_BY])
    rows = made_by.view(f"V{decode.MADE_BY}").reshape(-1)
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    found = table[first].copy()
    np.minimum.at(found["since"], inverse, table["since"])
    np.maximum.at(found["time"], inverse, table["time"])
    return found
