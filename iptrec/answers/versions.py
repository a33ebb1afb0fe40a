"""The stages of packets: each packet as it first was, and after every change of its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from iptrec.names import I64
    from iptrec.packets.window import Window


class Stages(NamedTuple):
    """Stages of packets, in order; all columns have shape (n,).

    ``position``: of the traversal in the window's assembly. ``row``: the event that showed it first.
    ``until``: how many of the traversal's events there are up to the stage's end.
    """

    position: I64
    row: I64
    until: I64


def first_stages(window: Window, positions: I64) -> Stages:
    """Each traversal once, as it first was, with all of its events."""
    assembly = window.assembly
    return Stages(positions, assembly.rows[assembly.first[positions]], assembly.count[positions])


def all_stages(window: Window, positions: I64) -> Stages:
    """Each traversal once for every change of the packet."""
    assembly, events = window.assembly, window.events
    memory = events.buffer.data
    found: list[tuple[int, int, int]] = []
    for position in positions.tolist():
        rows = assembly.events(position).tolist()
        begun, before = 0, None
        for at, row in enumerate(rows):
            start = int(events.payload[row])
            packet = memory[start : start + int(events.payload_length[row])] if start >= 0 else b""
            # Of a packet that both backends tell of nf_tables dumps the headers only.
            size = len(packet) if before is None else min(len(packet), len(before))
            if before is not None and packet[:size] != before[:size]:
                found.append((position, rows[begun], at))
                begun = at
            before = packet
        found.append((position, rows[begun], len(rows)))
    columns = np.array(found, np.int64).reshape(-1, 3).T
    return Stages(*columns)


def events_of(window: Window, positions: I64) -> I64:
    """The events of some traversals, in the order of their arrival."""
    assembly = window.assembly
    chosen = np.zeros(len(assembly), np.bool_)
    chosen[positions] = True
    return np.sort(assembly.rows[np.repeat(chosen, assembly.count)])
