"""How traversals belong together: the same packet again, and packets that come of packets.

A looped-back packet makes two traversals, a copy one of its own, REJECT's answer as well; a tunnel's
packet holds another one; an ICMP error quotes one. Each relation names an earlier traversal, is found
by keys (`identity`), and is reported only where the events bear it out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.names import HOOKS
from iptrec.packets.loops import CAME, LEFT, LOOP_NS
from iptrec.packets.model import Related
from iptrec.packets.neighbours import Late, given_up
from iptrec.packets.pages import NOTHING, Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.names import I64, U64, Mask
    from iptrec.packets.model import RelationKind
    from iptrec.packets.pages import Column
    from iptrec.packets.window import Window

REMEMBERED: Final = 12  # windows
_INPUT, _OUTPUT, _POSTROUTING = map(HOOKS.index, ("INPUT", "OUTPUT", "POSTROUTING"))
# The columns by which packets are found that errors quote, in turn.
_QUOTED: Final = (
    ("key_of_flow", "inner_of_flow"), ("key", "inner"), ("last_flow", "inner_flow"), ("flow", "inner_flow"),
    ("quotable", "named_quote"),
)  # fmt: skip
# And of those that read like a quote but for where they go: what NAT makes of one is seen behind PREROUTING.
_UNSEEN: Final = (("key", "inner"), ("readable", "readable_quote"))
_QUOTED_LATE: Final = (_QUOTED[0], ("quotable", "quoted"))
_MOST_PIECES: Final = 64  # an IPv4 packet has 65,535 bytes at most


class Relations:
    """Follows the windows of one stream, in order, and answers for the latest."""

    def __init__(self) -> None:
        self._pages: deque[Page] = deque(maxlen=REMEMBERED)
        self._columns: dict[RelationKind, I64] | None = None
        self._late: Late | None = None
        self._either: Mask = np.zeros(0, np.bool_)
        self._deciders: dict[int, I64] = {}
        self._reach = 0

    def next_window(self, window: Window) -> None:
        """Go on to the next window."""
        start = 0
        if self._pages:
            start = self._pages[-1].stop
            self._pages[-1].put_by()
        self._pages.append(Page(start, window))
        self._columns = None
        self._late = None
        self._either = np.zeros(len(self._pages[-1]), np.bool_)
        self._deciders = {}
        self._reach = 0

    @property
    def reach(self) -> int:
        """How many windows before this one are needed to tell all relations of its packets."""
        if self.reassembled().any():
            return REMEMBERED
        self.columns()
        return self._reach

    def columns(self) -> dict[RelationKind, I64]:
        """What the decided traversals of the window have to do with earlier ones, but for `pieces`.

        For each kind, in the order in which they are shown, the number of the other traversal; 0: none.
        Each has shape (decided,).
        """
        if self._columns is None:
            self._columns = {kind: self._numbers(rows) for kind, rows in self._related().items()}
        return self._columns

    def reassembled(self) -> Mask:
        """Which decided traversals of the window have `pieces`, shape (decided,)."""
        page = self._pages[-1]
        whole = (page["hook"] == _INPUT) & (page["datagram"] != 0)
        return self._where(whole, lambda at: self._before("piece_of", "datagram", at)) >= 0

    def pieces(self, position: int) -> list[int]:
        """The numbers of the fragments that the packet at this position was put together from."""
        page = self._pages[-1]
        key = page["datagram"][position]
        if page["hook"][position] != _INPUT or not key:
            return []
        found: list[int] = []
        one = np.array([page.start + position])
        while len(found) < _MOST_PIECES:
            one = self._latest("piece_of", page["datagram"][position : position + 1], one)
            if one[0] < 0:
                break
            found.append(int(self._numbers(one)[0]))
        return found[::-1]

    def of(self, position: int) -> tuple[Related, ...]:
        """What the traversal at this position of the window has to do with earlier ones."""
        related = ((kind, int(numbers[position])) for kind, numbers in self.columns().items())
        return (
            *(Related("reassembled", number) for number in self.pieces(position)),
            *(Related(kind, number) for kind, number in related if number),
        )

    def errors(self) -> Mask:
        """Which decided traversals of the window are errors of ICMP that this host sent."""
        page = self._pages[-1]
        errors: Mask = (page["hook"] == _OUTPUT) & page["quotes"]
        return errors

    def either(self) -> Mask:
        """Which of them may be about an earlier packet than the one that `columns` has."""
        self.columns()
        return self._either

    def late(self) -> Late:
        """The packets of the window that waited for a neighbour, and errors of this window about them."""
        if self._late is None:
            found = [self._given_up(own, quoted) for own, quoted in _QUOTED_LATE]
            self._late = Late(*(np.concatenate(some) for some in zip(*found, strict=True)))
        return self._late

    def replies(self, at: I64) -> Mask:
        """Which traversals at some positions come back on a flow that was seen before them."""
        found: Mask = self._before("last_flow", "back", at) >= 0
        return found

    def resets(self) -> list[tuple[int, int]]:
        """Positions in the window: of a RST that this host sent, and of what it answers."""
        page = self._pages[-1]
        at = np.flatnonzero((page["hook"] == _OUTPUT) & page["reset"])
        found = self._before("last_flow", "back", at) - page.start
        return [
            (int(one), int(before)) for one, before in zip(at, found, strict=True) if before >= 0
        ]

    def decider_before(self, position: int, time_ns: int) -> int | None:
        """The place that decided the last packet of the same flow that was seen before a time."""
        if time_ns not in self._deciders:
            page = self._pages[-1]
            times = np.concatenate([one["time"] for one in self._pages])
            early = self._pages[0].start + int(np.searchsorted(times, time_ns))
            rows = self._latest("flow", page["flow"], np.minimum(page.rows, early))
            self._deciders[time_ns] = self._of(rows, "decider", -1)
        decider = int(self._deciders[time_ns][position])
        return None if decider < 0 else decider

    def _related(self) -> dict[RelationKind, I64]:
        """The rows that `columns` gives the numbers of; -1: none."""
        page = self._pages[-1]
        hook, inner, quotes = page["hook"], page["inner"], page["quotes"]
        sent, seen = hook == _OUTPUT, hook == _POSTROUTING
        answer = self._where(sent, self._rejected)
        free = answer < 0  # that REJECT's answer quotes the rejected packet goes without saying
        return {
            "copy": np.select(
                [page["origin"] >= 0, sent], [page.start + page["origin"], self._teed()], -1
            ),
            "answer-of-reject": answer,
            "looped-back": self._where(~sent & ~seen, self._looped),
            "error-about": self._where(free & quotes, self._quoted),
            "carries": self._where(
                free & ~quotes & (inner != 0), lambda at: self._before("key", "inner", at)
            ),
            "carried-by": self._outside(),
        }

    def _given_up(self, own: str, quoted: str) -> Late:
        """Those that are found by a column of packets, and of quotes."""
        page = self._pages[-1]
        error, dead = page["of_neighbour"], page["seen_dead"]
        key = np.where(error, page[quoted], page[own])
        # Where any that reads so was seen to be discarded, the errors are about those.
        waited = dead | (page["waited"] & ~np.isin(key, key[dead]))
        time_ns = np.where(error, page["begun_ns"], page["ended_ns"])
        found = given_up(key, time_ns, waited, error)
        named = (page["quoted"] == 0) | page["named"]
        return found._replace(sure=found.sure & named[found.error])

    def _where(self, chosen: Mask, find: Callable[[I64], I64]) -> I64:
        """What is found for the chosen positions, -1 for the others."""
        found = np.full(len(chosen), -1)
        at = np.flatnonzero(chosen)
        if len(at):
            found[at] = find(at)
        return found

    def _looped(self, at: I64) -> I64:
        """The traversal as which this packet left a moment before."""
        found = np.full(len(at), -1)
        for left, came in zip(LEFT, CAME, strict=True):
            found = np.where(found < 0, self._before(left, came, at), found)
        ended = self._of(found, "ended_ns", np.iinfo(np.int64).min // 2)
        late = self._pages[-1]["begun_ns"][at] - ended > LOOP_NS
        return np.where(late, -1, found)

    def _teed(self) -> I64:
        """The traversal of this window in the midst of whose TEE rule this one took place."""
        page = self._pages[-1]
        if not page["teed"].any():
            return np.full(len(page), -1)
        latest = np.maximum.accumulate(np.where(page["teed"], np.arange(len(page)), -1))
        one = np.append(np.int64(-1), latest[:-1])
        flow = page["flow"]
        fits = (one >= 0) & (page["ended"][one] >= page["begun"])
        fits &= (flow == page["flow"][one]) | (flow == page["last_flow"][one])
        return np.where(fits, page.start + one, -1)

    def _rejected(self, at: I64) -> I64:
        """The rejected traversal that this one answers: its flow turned round by a RST, or quoted."""
        page = self._pages[-1]
        flow = np.where(
            page["quotes"], page["inner_flow"], np.where(page["reset"], page["back"], NOTHING)
        )
        found = self._latest("rejected_flow", flow[at], page.rows[at])
        little = self._before("rejected_quotable", "quoted", at)
        at_once = little == page.rows[at] - 1
        return np.where((found < 0) & (page["named"][at] | at_once), little, found)

    def _quoted(self, at: I64) -> I64:
        """The packet itself, else the last one that reads like it, else the last one of its flow."""
        page, late = self._pages[-1], self.late()
        found = np.full(len(page), -1)
        self._either = np.zeros(len(page), np.bool_)
        for own, quoted in _QUOTED:
            found[at] = np.where(found[at] < 0, self._before(own, quoted, at), found[at])
        for own, quoted in _UNSEEN:
            last = self._before(own, quoted, at)
            went_on = ~self._of(found[at], "unrouted", np.False_)
            nearer = (last > found[at]) & went_on & self._of(last, "unrouted", np.False_)
            self._either[at] |= nearer & (found[at] >= 0)
            found[at] = np.where(nearer, last, found[at])
        # Of what nf_tables dumps of a quote nothing is left to choose by.
        found[late.error[~late.sure & (page["quoted"][late.error] != 0)]] = -1
        found[late.error[late.sure]] = page.start + late.packet[late.sure]
        return found[at]

    def _outside(self) -> I64:
        every = np.arange(len(self._pages[-1]))
        found = self._before("inner", "key", every)
        return np.where(self._of(found, "quotes", np.True_), -1, found)

    def _before(self, name: str, value: str, at: I64) -> I64:
        """For positions of the window: the last row before that has their ``value`` as its ``name``."""
        page = self._pages[-1]
        return self._latest(name, page[value][at], page.rows[at])

    def _latest(self, name: str, values: U64, before: I64) -> I64:
        """The last row before another one with a value in a column; -1: none. 0 is no value."""
        found = np.full(len(values), -1)
        order = np.argsort(values)  # neighbours are found together
        left = order[np.searchsorted(values[order], NOTHING, side="right") :]
        for age, page in enumerate(reversed(self._pages)):
            if not len(left):
                break
            index = page.index(name)
            if not len(index):
                continue
            row = index.latest(values[left], before[left] - page.start)
            found[left] = np.where(row < 0, -1, row + page.start)
            if (row >= 0).any():
                self._reach = max(self._reach, age)
            left = left[row < 0]
        return found

    def _numbers(self, rows: I64) -> I64:
        return self._of(rows, "number", 0)

    def _of(self, rows: I64, name: str, nothing: Any) -> Column:  # noqa: ANN401 - numpy's scalar
        """A column's values at some rows, ``nothing`` for those that are -1."""
        values = np.full(len(rows), nothing, self._pages[-1][name].dtype)
        for page in self._pages:
            here = (rows >= page.start) & (rows < page.stop)
            if here.any():
                values[here] = page[name][rows[here] - page.start]
        return values
