"""The stages of packets: each packet as it first was, and after every change of its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from iptrec.answers import paths

if TYPE_CHECKING:
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64
    from iptrec.packets.window import Window


class Stages(NamedTuple):
    """Stages of packets, in order; all columns have shape (n,).

    ``position``: of the traversal in the window's assembly. ``begun``: the event that showed it first; of a
    traversal's first stage its first step that is shown, whose time is the packet's. ``row``: the first one
    that showed most of it. ``until``: how many of the traversal's events there are up to
    the stage's end.
    """

    position: I64
    begun: I64
    row: I64
    until: I64


def first_stages(window: Window, positions: I64) -> Stages:
    """Each traversal once, as it first was, with all of its events."""
    assembly, traced = window.assembly, window.events.trace >= 0
    rows = assembly.rows[assembly.first[positions]]
    if not traced.all():
        for at in np.flatnonzero(traced[rows]).tolist():
            rows[at] = _stages(window, int(positions[at]))[0].row
    return Stages(positions, _begun(window, positions), rows, assembly.count[positions])


def all_stages(window: Window, positions: I64) -> Stages:
    """Each traversal once for every change of the packet."""
    found = [
        (position, *one) for position in positions.tolist() for one in _stages(window, position)
    ]
    stages = Stages(*np.array(found, np.int64).reshape(-1, 4).T)
    first = np.diff(stages.position, prepend=-1) != 0
    stages.begun[first] = _begun(window, stages.position[first])
    return stages


def _begun(window: Window, positions: I64) -> I64:
    """The event of the first step of each traversal that is shown: our own rules are not."""
    assembly, places = window.assembly, window.resolver.places
    shown = [paths.shown([places[one] for one in outcome.path]) for outcome in assembly.outcomes]
    before = np.array([min(one, default=0) for one in shown], np.int64)
    begun: I64 = assembly.rows[assembly.first[positions] + before[assembly.outcome[positions]]]
    return begun


class _Stage(NamedTuple):
    """As in `Stages`."""

    begun: int
    row: int
    until: int


def _stages(window: Window, position: int) -> list[_Stage]:
    events = window.events
    found: list[_Stage] = []
    stage: list[int] = []
    for at, row in enumerate(window.assembly.events(position).tolist()):
        if stage and not _alike(events, stage[-1], row):
            found.append(_stage(events, stage, at))
            stage = []
        stage.append(row)
    return [*found, _stage(events, stage, int(window.assembly.count[position]))]


def _stage(events: TraceEvents, rows: list[int], until: int) -> _Stage:
    return _Stage(rows[0], max(rows, key=events.payload_length.__getitem__), until)


def _alike(events: TraceEvents, before: int, row: int) -> bool:
    """Whether two events have the same packet; nf_tables dumps less of it than legacy iptables."""
    old, new = events.packet(before), events.packet(row)
    if (events.trace[before] < 0) == (events.trace[row] < 0):
        return old == new
    size = min(len(old), len(new))
    return old[:size] == new[:size]


def events_of(window: Window, positions: I64) -> I64:
    """The events of some traversals, in the order of their arrival."""
    assembly = window.assembly
    chosen = np.zeros(len(assembly), np.bool_)
    chosen[positions] = True
    return np.sort(assembly.rows[np.repeat(chosen, assembly.count)])
