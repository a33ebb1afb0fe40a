"""Which connection a packet belonged to, and what NAT made of it.

Read along with the packets: connections that ended before the packets at hand are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.context.datagrams import datagrams
from iptrec.decode.conntrack import Connection, Flow, connections
from iptrec.names import PROTOCOL_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Recording

_EVER: Final = np.iinfo(np.int64)
# NEW comes when the first packet is through all rules; both are received a moment later.
_LATER_NS: Final = 100_000_000
# Under load much later; an id is no other connection's for that long (nf_conntrack_core.c, nf_ct_get_id).
_LATEST_NS: Final = 2_000_000_000


@dataclass(slots=True)
class _Lived:
    connection: Connection
    since_ns: int
    until_ns: int = _EVER.max


class Connections:
    """The connections of one namespace of a recording, which may still grow."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace
        self._seen: dict[int, int] = {}
        self._next: Iterator[tuple[int, Connection]] = iter(())
        self._ahead: tuple[int, Connection] | None = None
        self._by_flow: dict[Flow | None, list[_Lived]] = {}
        self._by_id: dict[int, list[_Lived]] = {}  # an id is used again
        self._ended: list[_Lived] = []

    def advance(self, first_ns: int, last_ns: int) -> None:
        """Know the connections of packets between two times (epoch); they never go back."""
        while (change := self._look_ahead()) is not None and change[0] <= last_ns + _LATEST_NS:
            self._take(*change)
            self._ahead = None
        kept = []
        for lived in self._ended:
            if lived.until_ns < first_ns:
                self._forget(lived)
            else:
                kept.append(lived)
        self._ended = kept

    @property
    def known(self) -> bool:
        """Whether any connection is, at the times that were asked for last."""
        return bool(self._by_flow)

    def of(self, header: dict[str, Any], time_ns: int, identity: int = -1) -> Connection | None:
        """The connection of a packet, before or after NAT; for an ICMP error that of what it quotes.

        ``header``: as `decode.packet.header` gives it. ``identity``: what the kernel said with the packet
        (CTA_ID), -1 if it did not; it is enough where the header was not dumped whole.
        """
        flow = _flow(header.get("inner", header))
        if identity >= 0:
            known, later_ns = self._by_id.get(identity, []), _LATEST_NS
        else:
            known, later_ns = self._by_flow.get(flow, []), _LATER_NS
        found = [
            lived.connection
            for lived in known
            if lived.since_ns <= time_ns + later_ns and time_ns <= lived.until_ns
        ]
        return next((one for one in found if flow in _flows(one)), found[0] if found else None)

    def _look_ahead(self) -> tuple[int, Connection] | None:
        if self._ahead is None:
            self._ahead = next(self._next, None)
        if self._ahead is None:  # the file may have more by now
            self._next = self._reported()
            self._ahead = next(self._next, None)
        return self._ahead

    def _reported(self) -> Iterator[tuple[int, Connection]]:
        told = datagrams(self._recording, "conntrack", self._namespace, self._seen)
        for time_ns, datagram in told:
            for connection in connections(datagram):
                yield time_ns, connection

    def _take(self, time_ns: int, connection: Connection) -> None:
        connection = self._expected(connection)
        flows = _flows(connection)
        if connection.gone:
            for lived in self._by_flow.get(connection.orig, ()):
                if lived.connection.id == connection.id and lived.until_ns == _EVER.max:
                    lived.until_ns = time_ns
                    self._ended.append(lived)
                    return
        known = self._by_flow.get(connection.orig, ())
        if any(lived.connection.id == connection.id and not connection.gone for lived in known):
            return  # the dump in the beginning and NEW may tell of the same one
        lived = _Lived(connection, _EVER.min if connection.gone else time_ns)
        if connection.gone:  # it was there before we looked
            lived.until_ns = time_ns
            self._ended.append(lived)
        for flow in flows:
            self._by_flow.setdefault(flow, []).append(lived)
        self._by_id.setdefault(connection.id, []).append(lived)

    def _expected(self, connection: Connection) -> Connection:
        """The connection, with the helper of the one that it belongs to; the kernel told of that one before."""
        if connection.master is None or connection.gone:
            return connection
        masters = [one.connection for one in self._by_flow.get(connection.master, ())]
        names = {one.helper for one in masters if one.orig == connection.master and not one.gone}
        return replace(connection, expected_by=names.pop()) if len(names) == 1 else connection

    def _forget(self, lived: _Lived) -> None:
        for flow in _flows(lived.connection):
            _remove(self._by_flow, flow, lived)
        _remove(self._by_id, lived.connection.id, lived)


def _remove(known: dict[Any, list[_Lived]], key: Flow | int, lived: _Lived) -> None:
    known[key] = [one for one in known.get(key, ()) if one is not lived]
    if not known[key]:
        del known[key]


def _flows(connection: Connection) -> set[Flow]:
    """What its packets look like: as they come, and as NAT leaves them, in both directions."""
    orig, reply = connection.orig, connection.reply
    return {orig, reply, orig.back, reply.back}


def _flow(header: dict[str, Any]) -> Flow | None:
    protocol = header.get("proto")
    number = PROTOCOL_NUMBERS.get(str(protocol))
    if number is None and str(protocol).isdigit():
        number = int(str(protocol))
    if number is None or header.get("src") is None:
        return None
    sport, dport = header.get("sport"), header.get("dport")
    if "icmp_id" in header:
        sport = dport = header["icmp_id"]
    return Flow(number, header["src"], header["dst"], sport or 0, dport or 0)
