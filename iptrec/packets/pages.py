"""What is remembered of windows, to find the packets of later ones in it: columns of their traversals.

A column that is read from packets is made when it is asked for, or when the window is left behind and a later
one may look for its packets there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.names import HOOKS
from iptrec.packets.ends import DISCARDED
from iptrec.packets.identity import addressed, combined
from iptrec.packets.latest import Index
from iptrec.packets.loops import CAME, LEFT, came_keys, left_keys
from iptrec.packets.quotes import Quotes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64
    from iptrec.packets.window import Window

    Column = npt.NDArray[Any]

_PREROUTING, _, _FORWARD, _OUTPUT, _POSTROUTING = map(HOOKS.index, HOOKS)
_LEAVING: Final = (_FORWARD, _OUTPUT, _POSTROUTING)
NOTHING: Final = np.uint64(0)


class Page:
    """What is remembered of a window's decided traversals; its rows are counted from the first window on."""

    def __init__(self, start: int, window: Window) -> None:
        self.start = start
        self.stop = start + window.decided
        self._columns = _by_events(window)
        begun, ended = self._columns["begun"], self._columns["ended"]
        self._read: _Packets | None = _Packets(
            window.events, [begun, ended, *_whole(window, begun, ended)]
        )
        self._indexes: dict[str, Index] = {}

    def __getitem__(self, name: str) -> Column:
        """A column, shape (n,)."""
        if name not in self._columns:
            assert self._read is not None  # noqa: S101 - of a page that is put by nobody asks for others
            names, make = _BY_PACKETS[name]
            made = (self._read.known(one) for one in make(self, self._read))
            self._columns |= zip(names, made, strict=True)
        return self._columns[name]

    def __len__(self) -> int:
        """How many rows."""
        return self.stop - self.start

    @property
    def rows(self) -> I64:
        """Their numbers."""
        return np.arange(self.start, self.stop)

    def index(self, name: str) -> Index:
        """The index of a column."""
        if name not in self._indexes:
            self._indexes[name] = Index(self[name])
        return self._indexes[name]

    def put_by(self) -> None:
        """Keep what packets of later windows may be looked for in, and no packet."""
        for name in _LOOKED_UP:
            self[name]
        self._read = None


class _Packets:
    """The packets of traversals at their ``first`` and ``last`` events that were recorded whole.

    ``rows``: of the very first ones, of the very last ones, and of those two.
    """

    def __init__(self, events: TraceEvents, rows: Sequence[I64]) -> None:
        self.events = events
        begun, ended, *self.whole = rows
        self.begun, self.ended = begun, ended
        self.first, self.last = (Quotes.of(events, one) for one in self.whole)
        there = addressed(events) | ~events.ip
        self._known = np.logical_and.reduce([there[one] for one in (begun, ended, *self.whole)])

    def known(self, column: Column) -> Column:
        """A column of keys with `NOTHING` where addresses are not known: they are equal to no others."""
        return np.where(self._known, column, NOTHING) if column.dtype == NOTHING.dtype else column


def _by_events(window: Window) -> dict[str, Column]:
    """The columns for which no packet is read."""
    assembly, events, decided = window.assembly, window.events, window.decided
    begun = assembly.rows[assembly.first[:decided]]
    ended = assembly.rows[assembly.first[:decided] + assembly.count[:decided] - 1]
    received = events.received_ns[begun]
    outcome = assembly.outcome[:decided]
    decider = [-1 if one.decider is None else one.path[one.decider] for one in assembly.outcomes]
    teed = [_has_tee(window, one.path) for one in assembly.outcomes]
    verdict = np.array([one.verdict for one in assembly.outcomes], np.str_)
    return {
        "number": window.number + np.arange(decided),
        "time": np.maximum.accumulate(received) if decided else received,
        "decider": np.array(decider, np.int64)[outcome],
        "begun": begun,
        "ended": ended,
        "hook": events.hook[begun].astype(np.int64),
        "begun_ns": window.moment_ns[begun],
        "ended_ns": window.moment_ns[ended],
        "unrouted": events.hook[ended] == _PREROUTING,
        "leaving": np.isin(events.hook[ended], _LEAVING),
        "rejected": (verdict == "REJECT")[outcome],
        "dropped": np.isin(verdict, ("DROP", "REJECT"))[outcome],
        "accepted": (verdict == "ACCEPT")[outcome],
        "seen_dead": (verdict == DISCARDED)[outcome],
        "teed": np.array(teed, np.bool_)[outcome],
        "origin": assembly.origins()[:decided],
    }


def _whole(window: Window, begun: I64, ended: I64) -> tuple[I64, I64]:
    """The first and last events of each traversal by legacy iptables, if any: nf_tables dumps headers alone."""
    rows, first = window.rows(), window.assembly.first[: window.decided]
    whole = window.events.trace[rows] < 0
    if whole.all() or not whole.any():
        return begun, ended
    at = np.arange(len(rows))
    lowest = np.minimum.reduceat(np.where(whole, at, len(rows)), first)
    highest = np.maximum.reduceat(np.where(whole, at, -1), first)
    there = highest >= 0
    return (
        np.where(there, np.append(rows, [0])[lowest], begun),
        np.where(there, rows[highest], ended),
    )


def _has_tee(window: Window, path: tuple[int, ...]) -> bool:
    return any(window.resolver.places[one].target == "TEE" for one in path)


def _inner(page: Page, read: _Packets) -> tuple[Column, ...]:
    """Of what is inside of packets, but for quotes that nf_tables dumps in short."""
    inner, inner_flow, quotes = read.last.inner_keys()
    short = page["quoted"] != 0
    return (
        np.where(short, NOTHING, inner), np.where(short, NOTHING, inner_flow), quotes,
    )  # fmt: skip


def _datagrams(_: Page, read: _Packets) -> tuple[Column, ...]:
    datagram, fragment = read.first.datagram_keys()
    return datagram, np.where(fragment, datagram, NOTHING)


def _in_short(_: Page, read: _Packets) -> tuple[Column, ...]:
    """What nf_tables dumps of quotes, and of packets as it would; see `Quotes`."""
    rows, packets = read.whole[1], read.last
    quotable, quoted, readable, anywhere = np.zeros((4, len(rows)), np.uint64)
    named = np.zeros(len(rows), np.bool_)
    if (read.events.trace[rows] >= 0).any():
        quotable, readable = packets.quotable_keys()
        quoted, anywhere, named = packets.quoted_keys()
    named_quote, readable_quote = (np.where(named, one, NOTHING) for one in (quoted, anywhere))
    return quotable, quoted, named, readable, named_quote, readable_quote


def _left(page: Page, read: _Packets) -> tuple[Column, ...]:
    found = left_keys(read.events, read.begun, read.ended, page["key"], read.last, page["dropped"])
    return tuple(found[name] for name in LEFT)


def _came(page: Page, read: _Packets) -> tuple[Column, ...]:
    found = came_keys(read.events, read.begun, page["key"], read.first)
    return tuple(found[name] for name in CAME)


def _both(key: U64, flow: U64) -> U64:
    """A key of packets that read alike and are of one flow; 0 where one of them is not known."""
    known = (key != NOTHING) & (flow != NOTHING)
    return np.where(known, combined([key, flow]), NOTHING)


# Columns that are made together, and how.
_MADE: Final[dict[tuple[str, ...], Callable[[Page, _Packets], tuple[Column, ...]]]] = {
    ("key",): lambda _, read: (read.first.keys(),),
    ("flow",): lambda _, read: (read.first.flow_keys(),),
    ("back",): lambda _, read: (read.first.flow_keys(back=True),),
    ("last_flow",): lambda _, read: (read.last.flow_keys(),),
    ("reset",): lambda _, read: (read.first.resets(),),
    ("datagram", "piece_of"): _datagrams,
    ("inner", "inner_flow", "quotes"): _inner,
    ("quotable", "quoted", "named", "readable", "named_quote", "readable_quote"): _in_short,
    LEFT: _left,
    CAME: _came,
    ("of_neighbour",): lambda page, read: (
        page["quotes"] & (page["hook"] == _OUTPUT) & read.last.tell_of_neighbours(),
    ),
    ("waited",): lambda page, _: (page["accepted"] & page["leaving"] & ~page["quotes"],),
    ("key_of_flow",): lambda page, _: (_both(page["key"], page["last_flow"]),),
    ("inner_of_flow",): lambda page, _: (_both(page["inner"], page["inner_flow"]),),
    ("rejected_flow",): lambda page, _: (np.where(page["rejected"], page["last_flow"], NOTHING),),
    ("rejected_quotable",): lambda page, _: (
        np.where(page["rejected"], page["quotable"], NOTHING),
    ),
}
_BY_PACKETS: Final = {name: (names, make) for names, make in _MADE.items() for name in names}
_LOOKED_UP: Final = (
    "key", "flow", "last_flow", "key_of_flow", "inner", "quotes", "piece_of", "quotable", "readable",
    "rejected_flow", "rejected_quotable", *LEFT,
)  # fmt: skip
