"""Which of those that asked this host for a connection it answered (SYN, and SYN with ACK; RFC 9293)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.names import HOOKS
from iptrec.packets.identity import Packets, swapped16

if TYPE_CHECKING:
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.window import Window

_OUTPUT: Final = HOOKS.index("OUTPUT")
_SYN, _ACK, _ALL = 2, 16, 0x17  # with FIN and RST


def are_syns(packets: Packets) -> Mask:
    """Which ask for a connection."""
    syns: Mask = (packets.flags() & _ALL) == _SYN
    return syns


class Answers(NamedTuple):
    """SYNs with ACKs of this host in a window: where, of which flow, by which port."""

    at: I64
    flow: U64
    port: I64

    @classmethod
    def of(cls, window: Window) -> Answers:
        """All of them."""
        assembly, events = window.assembly, window.events
        begun = assembly.rows[assembly.first]
        sent = np.flatnonzero((events.hook[begun] == _OUTPUT) & events.ip[begun])
        packets = Packets.of(events, begun[sent])
        said = (packets.flags() & _ALL) == _SYN | _ACK
        port = swapped16(packets.ends()[3]).astype(np.int64)
        return cls(sent[said], packets.flow_keys(back=True)[said], port[said])

    def given(self, at: I64, flow: U64) -> Mask:
        """Which SYNs of some flows got one, before the next SYN; or one came before: it is sent once more."""
        key = np.concatenate([flow, self.flow])
        answers = np.arange(len(key)) >= len(flow)
        order = np.lexsort((np.concatenate([at, self.at]), key))
        key, answers = key[order], answers[order]
        begins = np.append(True, key[1:] != key[:-1])[: len(key)]
        before: I64 = np.cumsum(answers) - answers
        if len(key):
            before = before - before[np.flatnonzero(begins)][np.cumsum(begins) - 1]
        follows = np.append(answers[1:] & ~begins[1:], False)[: len(key)]
        answered = np.zeros(len(key), np.bool_)
        answered[order] = follows | (before > 0)
        found: Mask = answered[: len(flow)]
        return found
