"""Packets of TCP and UDP that all rules let pass to this host, and for whose port there was no socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.answers.diverting import Diverting
from iptrec.answers.handshakes import Answers, are_syns
from iptrec.names import HOOKS
from iptrec.packets.identity import Packets, swapped16

if TYPE_CHECKING:
    from iptrec.context.sockets import Sockets
    from iptrec.names import I64
    from iptrec.packets.window import Window

_INPUT: Final = HOOKS.index("INPUT")
_TCP, _UDP = 6, 17


class Unheard:
    """Those of the namespace whose sockets there are."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._diverting = Diverting()

    def positions(self, window: Window) -> I64:
        """Where they are in a window; none where any socket may have got them."""
        ports = self._sockets.ports
        if ports is None or self._diverting.may_be(window):
            return np.zeros(0, np.int64)
        return _unheard(window, ports)


def accepted_here(window: Window) -> tuple[I64, Packets]:
    """Where packets are that all rules let pass to this host, and what they were at their last rule."""
    assembly, events = window.assembly, window.events
    accepted = np.array([one.verdict == "ACCEPT" for one in assembly.outcomes], np.bool_)
    last = assembly.lasts()[: window.decided]
    outcome = assembly.outcome[: window.decided]
    at = np.flatnonzero((events.hook[last] == _INPUT) & accepted[outcome] & events.ip[last])
    return at, Packets.of(events, last[at])


def _unheard(window: Window, ports: frozenset[tuple[int, int]]) -> I64:
    """Their positions. ``ports``: protocol and number of all that had a socket."""
    at, packets = accepted_here(window)
    if not len(at):
        return at
    columns = packets.ends()
    protocol, port = columns[0].astype(np.int64), swapped16(columns[-1]).astype(np.int64)
    known = np.array([one << 16 | number for one, number in ports], np.int64)
    alone = ~np.isin(protocol << 16 | port, known) & np.isin(protocol, (_TCP, _UDP)) & (port > 0)
    # Of TCP only who asks for a connection needs a socket that listens; who is answered has found one.
    syns = are_syns(packets)
    alone &= syns | (protocol != _TCP)
    found: I64 = at[alone]
    if not (alone & syns).any():
        return found
    answered = Answers.of(window).given(found, packets.flow_keys()[alone]) & syns[alone]
    return found[~answered]
