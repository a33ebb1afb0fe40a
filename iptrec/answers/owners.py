"""Whose sockets the packets of a window are of: process, user, control group, as lists of sockets tell."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.answers.diverting import Diverting
from iptrec.context.owners import Local, SocketOwners
from iptrec.decode import packet
from iptrec.names import AF_BRIDGE, HOOKS
from iptrec.packets.identity import Packets

if TYPE_CHECKING:
    from iptrec.answers.selection import Selection
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

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._owners = SocketOwners(recording, namespace)
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
        at = at[self._ported(rows[at], sent=sent)]
        for position, row in zip(at.tolist(), rows[at].tolist(), strict=True):
            local = self._local(row, sent=sent)
            owner = local and self._owners.of(local, *self._times(position))
            if owner and not self._contradicted(position, owner):
                self._found[position] = owner

    def _ported(self, rows: I64, *, sent: bool) -> Mask:
        """Of which packets the own port is one of a known socket."""
        columns = Packets.of(self._window.events, rows).ends()
        port = columns[_SOURCE if sent else _DESTINATION].astype(np.int64)
        port = (port & 0xFF) << 8 | port >> 8
        known = [protocol << 16 | number for protocol, number in self._owners.sockets]
        found: Mask = np.isin(columns[0].astype(np.int64) << 16 | port, known)
        return found

    def _local(self, row: int, *, sent: bool) -> Local | None:
        events = self._window.events
        header = packet.header(
            events.packet(row), events.address_family(row), int(events.protocol[row])
        )
        names = (*_FROM, *_TO) if sent else (*_TO, *_FROM)
        protocol = _PROTOCOLS.get(str(header.get("proto")))
        if protocol is None or any(header.get(name) is None for name in names):
            return None
        address, port, peer, peer_port = (header[name] for name in names)
        own, other = ipaddress.ip_address(address), ipaddress.ip_address(peer)
        if _of_the_kernel(header, sent=sent) or own.is_multicast or address == _BROADCAST:
            return None
        interface = int((events.outdev if sent else events.indev)[row])
        return Local(protocol, own, port, other, peer_port, interface, sent)

    def _times(self, position: int) -> tuple[int, int]:
        """From when to when the packet may have been under way."""
        rows = self._window.assembly.events(position)
        last = int(self._window.events.received_ns[rows].max())
        return int(self._window.moment_ns[rows[0]]), last

    def _contradicted(self, position: int, owner: Owner) -> bool:
        """Whether the kernel told another user."""
        told = int(self._window.events.uid[self._window.assembly.events(position)].max())
        return told not in (-1, owner.uid)


def _of_the_kernel(header: dict[str, Any], *, sent: bool) -> bool:
    """Whether no socket may have sent it: an RST, a tunnel's packet."""
    if not sent:
        return False
    return "RST" in (header.get("flags") or ()) or header.get("dport") in _TUNNELS
