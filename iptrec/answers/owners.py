"""Whose sockets the packets of a window are of: process, user, control group."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.diverting import Diverting
from iptrec.answers.lookalikes import numbered
from iptrec.context.owners import Local, SocketOwners, When
from iptrec.names import AF_BRIDGE, AF_INET, HOOKS
from iptrec.packets.identity import Packets, swapped16

if TYPE_CHECKING:
    from iptrec.answers.selection import Selection
    from iptrec.context.sockets import Sockets
    from iptrec.decode.events import TraceEvents
    from iptrec.decode.owners import Owner
    from iptrec.names import I64, Mask
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_INPUT, _OUTPUT = HOOKS.index("INPUT"), HOOKS.index("OUTPUT")
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
_PORTED: Final = (6, 17)
_ECHOES: Final = {1: (0, 8), 58: (129, 128)}  # types of echo answers, of requests
_BEGIN: Final = 0x12  # of TCP's flags SYN and ACK
_SYN: Final = 0x02
_BROADCAST: Final = ipaddress.IPv4Address("255.255.255.255")
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
        self._numbers: I64 | None = None
        self._told: I64 | None = None

    def of(self, position: int) -> Owner | None:
        """Who sent the packet at a position, or is to get it; None where nobody knows for sure."""
        number = int(self.numbers()[position])
        return self._known_owners[number - 1] if number else None

    def numbers(self) -> I64:
        """Equal numbers for all decided packets of the window that have the same owner, 0 for none."""
        if self._numbers is None:
            self._numbers = np.zeros(self._window.decided, np.int64)
            self._known_owners: list[Owner] = []
            self._number_of: dict[Owner, int] = {}
            if self._known:
                self._owners.update()
                diverting = self._diverting
                self._owners.hears_senders = not diverting.may_queue(self._window)
                self._sent: dict[tuple[int, int, Owner | None], int] = {}
                if not diverting.may_be(self._window):
                    for sent in (True, False):
                        self._look(self._numbers, sent=sent)
        return self._numbers

    def chosen(self, selection: Selection, positions: I64) -> I64:
        """The positions of those that are selected by their owner."""
        if not selection.by_owner:
            return positions
        numbers = self.numbers()[positions]
        wanted = np.array([False, *map(selection.is_owner, self._known_owners)])
        wanted = wanted[numbers]
        if not (selection.comms or selection.containers):
            wanted |= np.isin(self._users()[positions], [*selection.uids])
        chosen: I64 = positions[wanted]
        return chosen

    def _users(self) -> I64:
        """Of each decided packet the user that the kernel told with it (NFULA_UID); -1 where it told none."""
        if self._told is None:
            assembly, decided = self._window.assembly, self._window.decided
            users = self._window.events.uid[self._window.rows()]
            found = np.maximum.reduceat(users, assembly.first[:decided]) if len(users) else users
            self._told = found.astype(np.int64)
        return self._told

    def _look(self, numbers: I64, *, sent: bool) -> None:
        """Find the owners of packets that came in by INPUT, or began at OUTPUT."""
        window, assembly, events = self._window, self._window.assembly, self._window.events
        rows = assembly.rows[assembly.first] if sent else assembly.lasts()
        rows = rows[: window.decided]
        here = (events.hook[rows] == (_OUTPUT if sent else _INPUT)) & events.ip[rows]
        at = np.flatnonzero(here & (events.family[rows] != AF_BRIDGE))
        if not len(at):
            return
        kept, flow, locals_ = self._flows(rows[at], sent=sent)
        at = at[kept]
        if not len(at):
            return
        begin = assembly.rows[assembly.first[at]]
        latest = np.maximum.reduceat(events.received_ns[assembly.rows], assembly.first)[at]
        times = np.stack([window.earliest_ns[begin], window.moment_ns[begin], latest], axis=1)
        user = self._users()[at]
        alike = numbered(flow, user, *self._between(flow, locals_, times).T)
        _, example, which = np.unique(alike, return_index=True, return_inverse=True)
        found, after = np.zeros(len(example), np.int64), np.zeros(len(example), np.int64)
        for one in np.argsort(example).tolist():  # who sent first is noted
            row = int(example[one])
            local = locals_[flow[row]]
            if local is None:
                continue
            owner, after[one] = self._owner(local, int(begin[row]), When(*times[row].tolist()))
            if owner and int(user[row]) in (-1, owner.uid):  # the kernel may tell another one
                found[one] = self._number(owner)
        sure = (found[which] > 0) & (begin > after[which])
        numbers[at[sure]] = found[which][sure]

    def _number(self, owner: Owner) -> int:
        if owner not in self._number_of:
            self._known_owners.append(owner)
            self._number_of[owner] = len(self._known_owners)
        return self._number_of[owner]

    def _between(self, flow: I64, locals_: list[Local | None], times: I64) -> I64:
        """Numbers for times, shape (n, 3); where they are equal, what is known of a flow's port is the same."""
        found = np.zeros(times.shape, np.int64)
        ports: dict[tuple[int, int], int] = {}
        of = [
            -1 if one is None else ports.setdefault(one[:1] + one[2:3], len(ports))
            for one in locals_
        ]
        port = np.array(of, np.int64)[flow]
        order = np.argsort(port, kind="stable")
        edges = np.searchsorted(port[order], np.arange(len(ports) + 1))
        for (protocol, number), low, high in zip(ports, edges, edges[1:], strict=False):
            rows = order[low:high]
            moments = self._owners.moments(protocol, number)
            for side in ("left", "right"):
                found[rows] += np.searchsorted(moments, times[rows], side)
        return found

    def _owner(self, local: Local, row: int, when: When) -> tuple[Owner | None, int]:
        """Who sent a packet, or is to get it, where its first event, which is ``row``, comes after another row.

        When it passed is known too little at times. Events are in order: what comes in behind a packet that a
        socket sent came when it was there.
        """
        found = self._owners.of(local, when)
        if local.sent:
            self._sent.setdefault((local.protocol, local.port, found), row)
        elif found is None:
            found = self._owners.of(local, when._replace(likely_ns=when.latest_ns))
            first = self._sent.get((local.protocol, local.port, found))
            return (None, -1) if first is None else (found, first)
        return found, -1

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
        device = (events.outdev if sent else events.indev)[rows]
        six = events.ipv6[rows].view(np.uint8)
        if not kept.any():
            return kept, np.zeros(0, np.int64), []
        key = numbered(*(one[kept] for one in (*columns, port, begins.view(np.uint8), device, six)))
        _, example, flow = np.unique(key, return_index=True, return_inverse=True)
        rows, port, begins = rows[kept][example], port[kept][example], begins[kept][example]
        each = zip(rows.tolist(), port.tolist(), begins.tolist(), strict=True)
        return kept, flow, [self._local(*one, sent=sent) for one in each]

    def _local(self, row: int, port: int, begins: bool, *, sent: bool) -> Local | None:
        events = self._window.events
        found = _ends_of_plain(events, row, sent=sent) or _ends(events, row, sent=sent)
        if found is None:
            return None
        protocol, own, other, peer_port = found
        if own.is_multicast or own == _BROADCAST or (sent and peer_port in _TUNNELS):
            return None
        interface = int((events.outdev if sent else events.indev)[row])
        return Local(protocol, own, port, other, peer_port, interface, sent, begins)


def _ends(events: TraceEvents, row: int, *, sent: bool) -> tuple[int, IP, IP, int] | None:
    """Protocol, own address, the peer's, and its port; None where some of that is not known."""
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
    return protocol, own, other, peer_port


def _ends_of_plain(events: TraceEvents, row: int, *, sent: bool) -> tuple[int, IP, IP, int] | None:
    """The same of IPv4 that has ports and is no fragment, which many flows are; None of everything else."""
    data = events.packet(row)
    if events.address_family(row) != AF_INET or not data or not 0x45 <= data[0] <= 0x4F:  # noqa: PLR2004
        return None
    ports = (data[0] & 0x0F) * 4
    if len(data) < ports + 4 or data[6] & 0xBF or data[7] or data[9] not in _PORTED:
        return None
    own, other = (
        ipaddress.IPv4Address(data[at : at + 4]) for at in ((12, 16) if sent else (16, 12))
    )
    peer = ports + 2 if sent else ports
    return data[9], own, other, int.from_bytes(data[peer : peer + 2], "big")
