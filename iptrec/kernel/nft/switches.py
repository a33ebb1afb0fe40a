"""Where among the traces the kernel went over to another ruleset of nf_tables.

A commit puts a new ruleset in force and tells its number a little later, or, where the process that commits
loses its processor, much later. Traces of that time look the same under both. So a filter of their socket
counts the messages, and notes at which one it saw another ruleset in force than at the one before: packets
choose theirs by net->nft.gencursor (net/netfilter/nf_tables_core.c, nft_do_chain).

A message is counted a moment before it is queued. Other processors may queue theirs in between, one each.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from typing import Final

from iptrec.errors import HostError
from iptrec.kernel.bpf import bpf
from iptrec.kernel.bpf.bpf import BYTE, HALF, LONG, load, move, number, store
from iptrec.kernel.nft import cursor
from iptrec.kernel.nft.cursor import Where, read

_LICENCE: Final = b"Dual MIT/GPL"  # the kernel asks for it of what reads its memory
_KIND_AT: Final = 4  # struct nlmsghdr
# What the program writes: how many messages and numbers there were, the bit of the ruleset that was seen last,
# how many changes of it, and of each how many numbers and messages came before it.
_MESSAGES, _NUMBERS, _CURSOR, _CHANGES, _PLACES = 0, 8, 16, 24, 32
_NEITHER: Final = 2
_SLOTS, _KEPT = 64, 48  # the others may be written while these are read
_SIZE: Final = _PLACES + 8 * _SLOTS
_MESSAGE_BITS: Final = 44  # the numbers, which begin again, are above
_NEVER: Final = 1 << _MESSAGE_BITS
_MOST_NUMBERS: Final = 1 << 64 - _MESSAGE_BITS
_R0, _R1, _R2, _R3, _CTX, _NOTES, _KIND, _COUNT, _STACK = 0, 1, 2, 3, 6, 7, 8, 9, 10
_POINTER: Final = -8  # in the stack


class Switches:
    """Notes of the changes; ``notes``: what the program writes, as 64 bits each."""

    def __init__(self, notes: memoryview) -> None:
        self._notes = notes
        self._others = os.cpu_count() or 1

    def after(self, numbers: int) -> tuple[int, int] | None:
        """Between which messages the ruleset changed for the next time after so many numbers were told.

        Messages before the first one, counted from 0, were told under the old ruleset, those from the second
        one on under the new. None: no message was told under the new one.
        """
        changes = self._notes[_CHANGES // 8]
        begin = max(0, changes - _KEPT)
        kept = [self._notes[_PLACES // 8 + one % _SLOTS] for one in range(begin, changes)]
        since = [((one >> _MESSAGE_BITS) - numbers) % _MOST_NUMBERS for one in kept]
        found = [one % _NEVER for one, told in zip(kept, since, strict=True) if not told]
        if begin and since[0] < _MOST_NUMBERS // 2:  # there were more
            return 0, max(found, default=_NEVER) + self._others
        if not begin and since[:1] == [0]:  # the first message: who knows what was before it
            return 0, max(found[1:], default=_NEVER) + self._others
        return (min(found) - self._others, max(found) + self._others) if found else None


def attached(opened: socket.socket, trace: int, number_: int) -> Switches | None:
    """Let traces and numbers into a socket, by their kinds of messages, and note where the ruleset changes.

    None where the kernel does not allow it, or does not tell its types: it needs CAP_BPF and CAP_PERFMON.
    """
    try:
        with contextlib.ExitStack() as closing:
            notes = bpf.new_map(bpf.ARRAY, key=4, value=_SIZE, entries=1, flags=bpf.MMAPABLE)
            closing.callback(os.close, notes)
            place = cursor.where()  # which takes a while: it is needed where the map is allowed
            written = memoryview(mmap.mmap(notes, mmap.PAGESIZE)).cast("Q")
            written[_CURSOR // 8] = _NEITHER  # so that the first message is noted
            code = _code(notes, (trace, number_), place)
            program = bpf.socket_filter(code, _LICENCE, b"iptrec_numbers")
            closing.callback(os.close, program)
            bpf.filtered(opened, program)
    except (HostError, OSError, LookupError, ValueError):
        return None
    return Switches(written)


def _code(notes: int, kinds: tuple[int, int], place: Where) -> bytes:
    """The program. ``notes``: the map that it writes; then the kinds of messages, and where the bit is."""
    trace, number_ = map(socket.htons, kinds)
    return bpf.assembled(
        [
            move(_CTX, _R1),
            bpf.load_packet(HALF, _KIND_AT),
            move(_KIND, _R0),
            (bpf.EQUAL, _KIND, trace, "in"),
            (bpf.EQUAL, _KIND, number_, "in"),
            number(_R0, 0),
            bpf.EXIT,
            "in",
            bpf.map_value(_NOTES, notes),
            *read(place, _POINTER),
            number(_COUNT, 1),
            bpf.count_in_memory(_NOTES, _COUNT),
            load(BYTE, _R1, _STACK, _POINTER),
            load(LONG, _R2, _NOTES, _CURSOR),
            bpf.subtract(_R2, _R1),
            (bpf.EQUAL, _R2, 0, "told"),
            *_note(),
            "told",
            (bpf.EQUAL, _KIND, trace, "whole"),
            load(LONG, _R1, _NOTES, _NUMBERS),
            bpf.add(_R1, 1),
            store(LONG, _NOTES, _NUMBERS, _R1),
            "whole",
            number(_R0, -1),
            bpf.EXIT,
        ]
    )


def _note() -> list[bytes]:
    """Note the place, and the ruleset's bit that is in register 1."""
    return [
        store(LONG, _NOTES, _CURSOR, _R1),
        load(LONG, _R1, _NOTES, _NUMBERS),
        bpf.shift(_R1, _MESSAGE_BITS),
        bpf.add_register(_R1, _COUNT),
        load(LONG, _R2, _NOTES, _CHANGES),
        move(_R3, _R2),
        bpf.and_(_R3, _SLOTS - 1),
        bpf.shift(_R3, 3),
        bpf.add_register(_R3, _NOTES),
        store(LONG, _R3, _PLACES, _R1),
        bpf.add(_R2, 1),
        store(LONG, _NOTES, _CHANGES, _R2),
    ]
