"""Whose sockets the packets of a window are of: process, user, control group."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.diverting import Diverting
from iptrec.context.owners import Local, SocketOwners, When
from iptrec.names import AF_BRIDGE, HOOKS
from iptrec.packets.identity import Packets, swapped16

if TYPE_CHECKING:
    from iptrec.answers.selection import Selection
    from iptrec.context.sockets import Sockets
    from iptrec.decode.owners import Owner
    from iptrec.names import I64, Mask
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording

_INPUT, _OUTPUT = HOOKS.index("INPUT"), HOOKS.index("OUTPUT")
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_ECHOES: Final = {1: (0, 8), 58: (129, 128)}  # types of echo answers, of requests
_BEGIN: Final = 0x12  # of TCP's flags SYN and ACK
_SYN: Final = 0x02
_BROADCAST: Final = "255.255.255.255"
_TUNNELS: Final = (
    4789,
    6081,
    8472,
)  # VXLAN, Geneve: the kernel sends from ports that others may have
_SOURCE, _DESTINATION = 3, 6  # of the columns that `Packets.ends` gives


class Owners:
    """Follows the windows of one stream, and answers for the latest."""

    def __init__(self, recording: Recording, namespace: int, sockets: Sockets) -> None:
        self._owners = SocketOwners(recording, namespace, sockets)
        self._known = any(one.kind in ("sockets", "senders") for one in recording.streams)
        self._diverting = Diverting()

    def next_window(self, window: Window) -> None:
        """Go on to the next window."""
        self._window = window
        self._found: dict[int, Owner] | None = None

    def of(self, position: int) -> Owner | None:
        """Who sent the packet at a position, or is to get it; None where nobody knows for sure."""
        return self._every().get(position)

    def numbers(self) -> I64:
        """Equal numbers for all decided packets of the window that have the same owner, 0 for none."""
        found = np.zeros(self._window.decided, np.int64)
        known: dict[Owner, int] = {}
        for position, owner in self._every().items():
            found[position] = known.setdefault(owner, len(known) + 1)
        return found

    def chosen(self, selection: Selection, positions: I64) -> I64:
        """The positions of those that are selected by their owner."""
        if not selection.by_owner:
            return positions
        known: dict[Owner, bool] = {}
        every = self._every()
        for owner in every.values():
            if owner not in known:
                known[owner] = selection.is_owner(owner)
        kept = [one for one in positions.tolist() if one in every and known[every[one]]]
        return np.array(kept, np.int64)

    def _every(self) -> dict[int, Owner]:
        if self._found is None:
            self._found = {}
            if self._known:
                self._owners.update()
                diverting = self._diverting
                self._owners.hears_senders = not diverting.may_queue(self._window)
                self._sent: dict[tuple[int, int, Owner | None], int] = {}
                if not diverting.may_be(self._window):
                    for sent in (True, False):
                        self._look(sent=sent)
        return self._found

    def _look(self, *, sent: bool) -> None:
        """Find the owners of packets that came in by INPUT, or began at OUTPUT."""
        window, assembly, events = self._window, self._window.assembly, self._window.events
        assert self._found is not None  # noqa: S101 - the caller set it
        rows = assembly.rows[assembly.first] if sent else assembly.lasts()
        rows = rows[: window.decided]
        here = (events.hook[rows] == (_OUTPUT if sent else _INPUT)) & events.ip[rows]
        at = np.flatnonzero(here & (events.family[rows] != AF_BRIDGE))
        if not len(at):
            return
        kept, flow, locals_ = self._flows(rows[at], sent=sent)
        at = at[kept]
        begin = assembly.rows[assembly.first[at]]
        times = zip(
            window.earliest_ns[begin].tolist(),
            window.moment_ns[begin].tolist(),
            np.maximum.reduceat(events.received_ns[assembly.rows], assembly.first)[at].tolist(),
            strict=True,
        )
        users = np.maximum.reduceat(events.uid[assembly.rows], assembly.first)[at].tolist()
        for position, row, number, when, user in zip(
            at.tolist(), begin.tolist(), flow.tolist(), times, users, strict=True
        ):
            local = locals_[number]
            owner = local and self._owner(local, row, When(*when))
            if owner and user in (-1, owner.uid):  # the kernel may tell another one
                self._found[position] = owner

    def _owner(self, local: Local, row: int, when: When) -> Owner | None:
        """Who sent a packet, or is to get it; ``row``: of its first event.

        When it passed is known too little at times. Events are in order: what comes in behind a packet that a
        socket sent came when it was there.
        """
        found = self._owners.of(local, when)
        if local.sent:
            self._sent.setdefault((local.protocol, local.port, found), row)
        elif found is None:
            found = self._owners.of(local, when._replace(likely_ns=when.latest_ns))
            if self._sent.get((local.protocol, local.port, found), row) >= row:
                return None
        return found

    def _flows(self, rows: I64, *, sent: bool) -> tuple[Mask, I64, list[Local | None]]:
        """Which packets have a known socket's port, the number of the flow of each of these, and the flows."""
        events = self._window.events
        packets = Packets.of(events, rows)
        columns = packets.ends()
        protocol, flags = columns[0].astype(np.int64), packets.flags()
        port = swapped16(columns[_SOURCE if sent else _DESTINATION]).astype(np.int64)
        first, later, cut = packets.transports()
        kind = (first & np.uint64(0xFF)).astype(np.int64)
        for number, types in _ECHOES.items():
            echo = (protocol == number) & (kind == types[sent]) & ~later & ~cut
            port = np.where(echo, swapped16(first >> np.uint64(32)).astype(np.int64), port)
            protocol = np.where((protocol == number) & ~echo, -1, protocol)
        kept: Mask = np.isin(protocol << 16 | port, self._owners.ports())
        if sent:
            kept &= ~packets.resets()  # the kernel's or a rule's
        begins = (flags & _BEGIN) == _SYN
        device = (events.outdev if sent else events.indev)[rows].astype(np.uint64)
        six = events.ipv6[rows].astype(np.uint64)
        own = [port.astype(np.uint64), begins.astype(np.uint64), device, six]
        table = np.stack([*columns, *own], axis=1)[kept]
        _, example, flow = np.unique(table, axis=0, return_index=True, return_inverse=True)
        rows, port, begins = rows[kept][example], port[kept][example], begins[kept][example]
        each = zip(rows.tolist(), port.tolist(), begins.tolist(), strict=True)
        return kept, flow.reshape(-1), [self._local(*one, sent=sent) for one in each]

    def _local(self, row: int, port: int, begins: bool, *, sent: bool) -> Local | None:
        events = self._window.events
        header = events.header(row)
        own_at, peer_at = ("src", "dst") if sent else ("dst", "src")
        protocol = _PROTOCOLS.get(str(header.get("proto")))
        if protocol is None or header.get(own_at) is None or header.get(peer_at) is None:
            return None
        peer_port = header.get("dport" if sent else "sport")
        if peer_port is None:
            if protocol not in _ECHOES:
                return None
            peer_port = 0
        own, other = (ipaddress.ip_address(header[name]) for name in (own_at, peer_at))
        if own.is_multicast or header[own_at] == _BROADCAST or (sent and peer_port in _TUNNELS):
            return None
        interface = int((events.outdev if sent else events.indev)[row])
        return Local(protocol, own, port, other, peer_port, interface, sent, begins)
