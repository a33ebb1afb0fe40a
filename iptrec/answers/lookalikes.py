"""Packets that read the same but for their numbers: ten thousand packets are a dozen shapes.

The packets of a shape took the same path, have headers of the same kind, met the same interfaces and
marks, and changed in the same fields. What is left, times, addresses, ports and the like, are columns.
A view renders one packet of a shape and fills in the others' values. Packets that are in any way odd have
no shape: they are to be made as objects, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.answers import paths
from iptrec.decode import packet
from iptrec.decode.headers import Headers, Texts, spans
from iptrec.packets.identity import MIX, ODD

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from iptrec.context.interfaces import Interfaces
    from iptrec.names import I64, Mask
    from iptrec.packets.model import RelationKind
    from iptrec.packets.relations import Relations
    from iptrec.packets.rule_changes import RuleChanges
    from iptrec.packets.window import Window

    Values = I64 | Texts

_FEWEST: Final = 4  # packets; to find the values of fewer costs more than to make them as objects
_BITS: Final = 62  # of a number that stands for several
_ETHERNET: Final = 14  # bytes of a link header without VLAN
_LINK: Final = 16  # bytes of it and of what follows, as two words
_IN_LINK: Final = (1 << 8 * (_ETHERNET - 8)) - 1  # those of the second one that are its own
_TYPE: Final = 12  # where its type begins
_TAGGED: Final = int.from_bytes(b"\x81\x00", "little")  # a VLAN's


@dataclass(frozen=True, slots=True)
class StepColumns:
    """What differs between the packets of a shape at one step.

    ``changed``: field -> (before, now). ``ct_id``: of the packets' connections; None where they have none.
    """

    time_ns: I64
    changed: dict[str, tuple[Values, Values]]
    ct_id: I64 | None


@dataclass(frozen=True, slots=True)
class Shape:
    """Packets of a window, at least four, that read the same but for these columns of `Traversal`.

    ``positions``: in the window's assembly, ascending. Every column has one value a packet; ``link`` is
    empty where there is none. ``ended_ns``: 0 where they have no `Traversal.end`.
    """

    positions: I64
    number: I64
    link: dict[str, Texts]
    header: dict[str, Values]
    related: dict[RelationKind, I64]
    steps: tuple[StepColumns, ...]
    ended_ns: I64


def shapes(
    window: Window,
    positions: I64,
    interfaces: Interfaces,
    relations: Relations,
    fates: RuleChanges,
    owners: I64,
) -> list[Shape]:
    """The shapes among some decided traversals of a window; those that are in none of them are odd.

    ``owners``: equal numbers for traversals of equal owners.
    Of the traversals no connection is known. ``relations`` and ``fates`` are at this window.
    """
    if len(positions) < _FEWEST:
        return []
    shown = _ShownEvents(window, positions)
    headers = shown.headers
    changes = headers.changes()
    changes[shown.first] = 0
    link, odd = shown.links()
    odd |= relations.reassembled()[positions] | shown.none
    odd |= np.logical_or.reduceat((changes < 0) | (headers.kind < 0), shown.first)
    related = {kind: numbers[positions] for kind, numbers in relations.columns().items()}
    look = numbered(
        headers.kind + 1, changes + 1, shown.mark, shown.estimated, *shown.ct(),
        *shown.interfaces(interfaces),
    )  # fmt: skip
    path = numbered(
        shown.outcome,
        link >= 0,
        fates.numbers(window, positions),
        *shown.owners(),
        owners[positions],
        *(numbers > 0 for numbers in related.values()),
    )
    return [
        Shape(
            positions=positions[members],
            number=window.number + positions[members],
            link=shown.link_values(link[members]),
            header=shown.header(members),
            ended_ns=window.ended_ns[positions[members]],
            related={
                kind: numbers[members] for kind, numbers in related.items() if numbers[members[0]]
            },
            steps=shown.steps(members, changes),
        )
        for members in _alike(look, shown.first, shown.count, path, ~odd)
    ]


class _ShownEvents:
    """The events that are shown of some traversals, or all where none is: of those is ``none`` true.

    ``first``, ``count``, ``outcome`` have one value a traversal, ``mark`` and ``headers`` one an event.
    """

    def __init__(self, window: Window, positions: I64) -> None:
        assembly, events = window.assembly, window.events
        count = assembly.count[positions]
        self._begin = np.cumsum(count) - count
        self._of = np.repeat(np.arange(len(count)), count)
        step = np.arange(len(self._of)) - self._begin[self._of]
        every = assembly.rows[assembly.first[positions][self._of] + step]
        self._every = every
        self.outcome = assembly.outcome[positions]
        shown = [_shown(window, one.path) for one in assembly.outcomes]
        self.none: Mask = np.array([not one.any() for one in shown])[self.outcome]
        shown = [one if one.any() else ~one for one in shown]
        offset = np.cumsum([0, *(len(one) for one in shown)])
        here = np.concatenate(shown)[offset[self.outcome][self._of] + step]
        rows = every[here]
        self.count: I64 = np.array([int(one.sum()) for one in shown], np.int64)[self.outcome]
        self.first: I64 = np.cumsum(self.count) - self.count
        self._events = events
        self._untold = window.stream.untold
        self._rows = rows
        self._moment_ns = window.moment_ns[rows]
        self._time_ns = np.where(
            events.stamp_ns[rows] != 0, events.stamp_ns[rows], events.sent_ns[rows]
        )
        self.mark = events.mark[rows]
        self.estimated = events.estimated[rows].astype(np.int8)
        self._ct_id = events.conntrack[rows]
        families = [window.resolver.families[one.path[0]] for one in assembly.outcomes]
        ipv6 = np.array([one == "ipv6" for one in families])[self.outcome]
        self.headers = Headers(
            events.buffer,
            np.where(events.ip[rows], events.payload[rows], -1),
            events.payload_length[rows],
            np.repeat(ipv6, self.count),
        )

    def interfaces(self, interfaces: Interfaces) -> list[I64]:
        """Numbers for the names of the interfaces of each event, and for that there is none."""
        events, found = self._events, []
        for column in (events.indev, events.outdev, events.physindev, events.physoutdev):
            index = column[self._rows]
            if index.any():
                _, number = interfaces.names(index, self._moment_ns)
                found.append(number * 2 + (index != 0))
        return found

    def ct(self) -> list[I64]:
        """What conntrack knew of each event's packet, but for the connection's id."""
        known = self._ct_id >= 0
        found = [self._events.ct_state[self._rows].astype(np.int64)]
        if not known.any():
            return found
        direction, status = (self._events.ct_direction, self._events.ct_status)
        return [*found, known.astype(np.int64), direction[self._rows] + 1, status[self._rows] + 1]

    def owners(self) -> list[I64]:
        """User and group of the socket of each packet, and 1 more; 0 where nobody tells."""
        columns = self._events.uid, self._events.gid
        return [np.maximum.reduceat(one[self._every], self._begin) + 1 for one in columns]

    def links(self) -> tuple[I64, Mask]:
        """Where the link header that is shown of each traversal begins (-1: there is none); the odd ones."""
        events = self._events
        there = np.flatnonzero(events.link[self._every] >= 0)
        shown = np.full(len(self._begin), -1)
        shown[self._of[there][::-1]] = self._every[there[::-1]]  # the first one is written last
        at = np.flatnonzero(shown >= 0)
        first, odd = np.full(len(shown), -1), np.zeros(len(shown), np.bool_)
        first[at] = events.link[shown[at]]
        odd[at] = events.link_length[shown[at]] != _ETHERNET
        odd[at] |= spans(events.buffer, 2)[first[at] + _TYPE].view("<u2") == _TAGGED
        first[odd] = -1
        return first, odd

    def link_values(self, start: I64) -> dict[str, Texts]:
        """The fields of link headers that begin there, as `decode.packet.link` gives them."""
        if start[0] < 0:
            return {}
        frames = spans(self._events.buffer, _LINK)[start]
        words = frames.view("<u8").reshape(-1, 2)
        low, high = words[:, 0], words[:, 1] & np.uint64(_IN_LINK)
        begins = np.ones(len(start), np.bool_)
        begins[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        whole = [one[:_ETHERNET] for one in frames[begins].tolist()]
        number = {one: at for at, one in enumerate(dict.fromkeys(whole))}
        which = np.array([number[one] for one in whole])[np.cumsum(begins) - 1]
        known = [packet.link(one) or {} for one in number]
        return {name: Texts([one[name] for one in known], which) for name in known[0]}

    def header(self, members: I64) -> dict[str, Values]:
        """The fields of the packets of some traversals of one shape, as they first were."""
        rows = self.first[members]
        fields = (one for one in self._fields(rows[0]) if one not in self._untold)
        return {name: self.headers.values(name, rows) for name in fields}

    def steps(self, members: I64, changes: I64) -> tuple[StepColumns, ...]:
        """Their steps. ``changes``: of each event, as `Headers.changes` gives them."""
        first = self.first[members]
        fields = self._fields(first[0])
        found = []
        for step in range(int(self.count[members[0]])):
            rows = first + step
            bits = int(changes[rows[0]])
            changed = {
                name: (self.headers.values(name, rows - 1), self.headers.values(name, rows))
                for bit, name in enumerate(fields)
                if bits >> bit & 1 and name not in self._untold
            }
            ids = self._ct_id[rows]
            found.append(StepColumns(self._time_ns[rows], changed, None if ids[0] < 0 else ids))
        return tuple(found)

    def _fields(self, row: int) -> list[str]:
        return list(self.headers.layouts[self.headers.which[row]].fields)


def _shown(window: Window, path: Sequence[int]) -> Mask:
    mask = np.zeros(len(path), np.bool_)
    mask[paths.shown([window.resolver.places[one] for one in path])] = True
    return mask


def numbered(*columns: npt.NDArray[Any]) -> I64:
    """Equal numbers for rows, at least one, that are equal in all columns of integers."""
    number = np.zeros(len(columns[0]), np.int64)
    used = 0  # bits
    for column in columns:
        low, high = column.min(), column.max()
        bits = (int(high) - int(low)).bit_length()
        if not bits:
            continue
        if bits > _BITS:
            values, bits = _dense(column)
        elif column.dtype == np.uint64:
            values = (column - low).astype(np.int64)
        else:
            values = column.astype(np.int64, copy=False) - int(low)
        if used + bits > _BITS:
            (number, used), (values, bits) = _dense(number), _dense(values)
        number = number << bits | values
        used += bits
    return number


def _dense(values: npt.NDArray[Any]) -> tuple[I64, int]:
    """The values of a column, numbered from 0 on, and how many bits the numbers have."""
    distinct, number = np.unique(values, return_inverse=True)
    return number, (len(distinct) - 1).bit_length()


def _alike(look: I64, first: I64, count: I64, whole: I64, plain: Mask) -> list[I64]:
    """Traversals with equal numbers, and events with equal looks; those that are plain, at least four.

    Hashes propose which are equal, all numbers decide.
    """
    step = np.arange(len(look)) - np.repeat(first, count)
    mixed = (look.astype(np.uint64) + np.uint64(1)) * ODD ^ step.astype(np.uint64) * MIX
    mixed ^= mixed >> np.uint64(31)
    signature = np.add.reduceat(mixed * MIX, first) ^ (whole.astype(np.uint64) * ODD)
    chosen = np.flatnonzero(plain)
    _, example, inverse = np.unique(signature[chosen], return_index=True, return_inverse=True)
    model = np.arange(len(first))
    model[chosen] = chosen[example[inverse]]
    equal = look[np.minimum(np.repeat(first[model], count) + step, len(look) - 1)] == look
    same = plain & (count[model] == count) & (whole[model] == whole)
    same &= np.logical_and.reduceat(equal, first)
    members = np.flatnonzero(same)
    members = members[np.argsort(model[members], kind="stable")]
    edges = np.flatnonzero(np.diff(model[members])) + 1
    return [one for one in np.split(members, edges) if len(one) >= _FEWEST]
