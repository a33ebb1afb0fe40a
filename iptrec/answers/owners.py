"""Whose sockets the packets of a window are of: process, user, control group, as lists of sockets tell."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.diverting import Diverting
from iptrec.context.owners import Local, SocketOwners
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
_PROTOCOLS: Final = {"tcp": 6, "udp": 17}
_BROADCAST: Final = "255.255.255.255"
_TUNNELS: Final = (
    4789,
    6081,
    8472,
)  # VXLAN, Geneve: the kernel sends from ports that others may have
_FROM, _TO = ("src", "sport"), ("dst", "dport")
_SOURCE, _DESTINATION = 3, 6  # of the columns that `Packets.ends` gives


class Owners:
    """Follows the windows of one stream, and answers for the latest."""

    def __init__(self, recording: Recording, namespace: int, sockets: Sockets) -> None:
        self._owners = SocketOwners(recording, namespace, sockets)
        self._listed = any(one.kind == "sockets" for one in recording.streams)
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
            if self._listed and self._owners.sockets and not self._diverting.may_be(self._window):
                for sent in (False, True):
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
        kept, flow, example = self._flows(rows[at], sent=sent)
        at = at[kept]
        locals_ = [self._local(row, sent=sent) for row in example.tolist()]
        begun = window.moment_ns[assembly.rows[assembly.first[at]]].tolist()
        ended, users = (
            np.maximum.reduceat(one[assembly.rows], assembly.first)[at].tolist()
            for one in (events.received_ns, events.uid)
        )
        for position, number, first, last, user in zip(
            at.tolist(), flow.tolist(), begun, ended, users, strict=True
        ):
            local = locals_[number]
            owner = local and self._owners.of(local, first, last)
            if owner and user in (-1, owner.uid):  # the kernel may tell another one
                self._found[position] = owner

    def _flows(self, rows: I64, *, sent: bool) -> tuple[Mask, I64, I64]:
        """Which packets have a known socket's port, the flows of these, and a row of each flow."""
        packets = Packets.of(self._window.events, rows)
        columns = packets.ends()
        port = swapped16(columns[_SOURCE if sent else _DESTINATION]).astype(np.int64)
        known = [protocol << 16 | number for protocol, number in self._owners.sockets]
        kept: Mask = np.isin(columns[0].astype(np.int64) << 16 | port, known)
        if sent:
            kept &= ~packets.resets()  # the kernel's or a rule's
        events = self._window.events
        device = (events.outdev if sent else events.indev)[rows].astype(np.uint64)
        six = events.ipv6[rows].astype(np.uint64)
        table = np.stack([*columns, device, six], axis=1)[kept]
        _, example, flow = np.unique(table, axis=0, return_index=True, return_inverse=True)
        return kept, flow.reshape(-1), rows[kept][example]

    def _local(self, row: int, *, sent: bool) -> Local | None:
        events = self._window.events
        header = events.header(row)
        names = (*_FROM, *_TO) if sent else (*_TO, *_FROM)
        protocol = _PROTOCOLS.get(str(header.get("proto")))
        if protocol is None or any(header.get(name) is None for name in names):
            return None
        address, port, peer, peer_port = (header[name] for name in names)
        own, other = ipaddress.ip_address(address), ipaddress.ip_address(peer)
        if own.is_multicast or address == _BROADCAST or (sent and peer_port in _TUNNELS):
            return None
        interface = int((events.outdev if sent else events.indev)[row])
        return Local(protocol, own, port, other, peer_port, interface, sent)
