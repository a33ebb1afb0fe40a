"""The packets of a host with rules of both backends: one traversal with the steps of both.

Each backend's events are put together by themselves first (`assemble`); then those that are one packet are
joined (`pairs`): its steps come in the order of hooks and priorities, and it is judged by the rules of
both (`turns`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, groupby, islice, product
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode.events import side_by_side
from iptrec.names import HOOKS
from iptrec.packets import forks as forking
from iptrec.packets.assemble import Assembly, in_order
from iptrec.packets.assembler import Read
from iptrec.packets.fragments import reassemble
from iptrec.packets.identity import Packets, combined
from iptrec.packets.in_flight import EQUAL
from iptrec.packets.outcome import HOLES, TORN
from iptrec.packets.pairs import Side, pair
from iptrec.packets.proven_order import Told as ToldAlong
from iptrec.packets.proven_order import proven
from iptrec.packets.ruleset_choice import reading
from iptrec.packets.turns import Block, merged
from iptrec.packets.unknown_rules import UnknownRules
from iptrec.packets.walk import Walker
from iptrec.rulesets.resolver import Resolved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.pairs import Pairs
    from iptrec.packets.turns import Order, Proven
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.joined import Joined
    from iptrec.rulesets.resolver import Met

_FORWARD: Final = HOOKS.index("FORWARD")
_NEVER: Final = int(np.iinfo(np.int64).max)
_SENT: Final = tuple(map(HOOKS.index, ("OUTPUT", "POSTROUTING")))
_ENDS: Final = ("DROP", "REJECT", "STOLEN")
_OTHER: Final = ("nf_tables", "legacy iptables")  # of each part
_REMEMBERED: Final = 100_000
_MOST_TRIED: Final = 64  # rulesets that read the same
_JITTER_NS: Final = 10_000_000  # by which packets may overtake each other between two rules


class _Told(NamedTuple):
    """What became of a packet by one backend's events: one of these, and the doubt which of them."""

    possible: tuple[Outcome, ...]
    doubt: str | None


class _Whole(NamedTuple):
    """What became of a packet by the events of both, and of which part each step is, at which place there."""

    outcome: Outcome
    steps: list[tuple[int, int]]


class Joiner:
    """Joins the packets of legacy iptables and nf_tables, remembering how paths fit together.

    ``walkers``: of both by themselves.
    """

    def __init__(self, book: Joined, walkers: Sequence[Walker]) -> None:
        self._book = book
        self._walkers = walkers
        self._walker = Walker(book)
        self._known: dict[tuple[tuple[_Told | None, ...], Proven], _Whole | None] = {}

    def join(self, parts: Sequence[Read]) -> Read:
        """Both as one, their events in the order in which they were sent, or at least received."""
        one, other = parts
        # Each in its own order, where two processors noted their times the other way round.
        sent = [np.maximum.accumulate(part.events.sent_ns) for part in parts]
        order = np.argsort(np.concatenate(sent), kind="stable")
        events = side_by_side(one.events, other.events, len(one.lengths)).take(order)
        assembly = self._assembly(parts, events, order)
        stamp_ns = _stamps(events, assembly)
        moment_ns = np.concatenate([part.moment_ns for part in parts])[order]
        return Read(
            lengths=np.concatenate([part.lengths for part in parts]),
            received_ns=np.concatenate([part.received_ns for part in parts]),
            events=replace(events, stamp_ns=stamp_ns),
            moment_ns=np.where(stamp_ns != events.stamp_ns, stamp_ns, moment_ns),
            earliest_ns=np.concatenate([part.earliest_ns for part in parts])[order],
            own=np.concatenate([part.own for part in parts])[order],
            resolved=Resolved(
                *(
                    np.concatenate([getattr(part.resolved, name) for part in parts])[order]
                    for name in ("place", "first", "last")
                )
            ),
            assembly=assembly,
            reached_ns=min(part.reached_ns for part in parts),
            waits=self._waits(parts, events, assembly, order),
        )

    def _waits(
        self, parts: Sequence[Read], events: TraceEvents, assembly: Assembly, order: I64
    ) -> Mask:
        """Of which packets the part that is behind may yet tell.

        Under load one socket is read long after the other. Both tell in the order of the kernel: each has told
        of all before the latest packet of which both have.
        """
        if not len(assembly):
            return np.zeros(0, np.bool_)
        both = np.array([self._told_by_both(one) for one in assembly.outcomes], np.bool_)
        unsure = np.array([not one.complete for one in assembly.outcomes], np.bool_) | ~both
        sure, waits = ~unsure[assembly.outcome], np.zeros(len(assembly), np.bool_)
        theirs = order[assembly.rows] >= len(parts[0].events)
        received = events.received_ns[assembly.rows]
        for own, other in ((~theirs, parts[1]), (theirs, parts[0])):
            latest_ns = np.maximum.reduceat(np.where(own, received, 0), assembly.first)
            front_ns = int(latest_ns[sure].max(initial=0)) - _JITTER_NS
            waits |= ~sure & (latest_ns > max(front_ns, other.reached_ns))
        return waits

    def _told_by_both(self, outcome: Outcome) -> bool:
        return len({self._book.backends[one].name for one in outcome.path}) > 1

    def _assembly(self, parts: Sequence[Read], events: TraceEvents, order: I64) -> Assembly:
        """``order``: of all events of the parts, in which they are joined."""
        place_of = np.empty(len(order), np.int64)
        place_of[order] = np.arange(len(order))
        forks = forking.part(parts, self._walkers)
        known = [_told(part.assembly) for part in forks.parts]

        def outcomes(*numbers: int) -> tuple[_Told | None, ...]:
            found = zip(known, numbers, strict=True)
            return tuple(some[at] if at >= 0 else None for some, at in found)

        def judge(mine: int, its: int) -> tuple[bool, bool]:
            whole = self._whole(outcomes(mine, its))
            return whole is not None, whole is not None and whole.outcome.complete

        ours = sum(part.assembly.ours for part in parts)
        one, other = map(_side, forks.parts, forks.kinds)
        pairs = pair(one, other, judge)
        if not len(pairs.doubtful):
            return replace(parts[0].assembly, ours=ours)
        parts = forks.parts
        if forks.any_cut:
            parts, pairs = forking.join(forks, pairs, self._walkers, place_of)
            known = [_told(part.assembly) for part in parts]
            impossible = np.zeros(len(pairs.one), np.bool_)
            for (mine, its, _), members in _alike(parts, pairs):
                impossible[members] = self._whole(outcomes(mine, its)) is None
            pairs = pairs.without(impossible)
        told = _told_of(parts)
        copy_of = _copies(parts, pairs)
        copies = np.full(len(order), -1)
        found: dict[Outcome, int] = {}
        rows, counts, option = [], [], []
        ways = (
            (doubtful, some, whole)
            for (mine, its, doubtful), members in _alike(parts, pairs)
            for some, whole in self._in_order(parts, pairs, told, outcomes(mine, its), members)
        )
        unknown = UnknownRules(self._book)
        earliest_ns = np.concatenate([part.earliest_ns for part in parts])
        received_ns = np.concatenate([part.events.received_ns for part in parts])
        for doubtful, members, whole in ways:
            outcome = whole.outcome
            if doubtful:
                outcome = replace(outcome, doubt=outcome.doubt or EQUAL)
            at = np.stack(_steps(parts, pairs, whole, members), axis=1)
            steps, copied = place_of[at], copy_of[members]
            copies[steps[:, 0]] = np.where(copied >= 0, place_of[copied], -1)
            rows.append(steps.reshape(-1))
            counts.append(np.full(len(members), steps.shape[1]))
            which = np.zeros(len(members), np.int64)
            for some, judged in unknown.judged(
                outcome, earliest_ns[at].min(axis=1), received_ns[at].max(axis=1)
            ):
                which[some] = found.setdefault(judged, len(found))
            option.append(which)
        row, first, count, outcome_of = in_order(
            rows=np.concatenate(rows), count=np.concatenate(counts), option=np.concatenate(option)
        )
        fates = reassemble(events, row[first], outcome_of, list(found))
        return Assembly(row, first, count, *fates, {}, copies[row[first]], ours)

    def _in_order(
        self,
        parts: Sequence[Read],
        pairs: Pairs,
        told: ToldAlong,
        outcomes: tuple[_Told | None, ...],
        members: I64,
    ) -> Iterator[tuple[I64, _Whole]]:
        """Pairs that were seen alike, by the order in which they passed chains, where it is proven.

        ``told``: by all events.
        """
        whole = self._whole(outcomes)
        assert whole is not None  # noqa: S101 - they are no pair otherwise
        asked = whole.outcome.unordered
        if not asked:
            yield members, whole
            return
        along = told.take(np.stack(_steps(parts, pairs, whole, members)))
        places = [self._book.places[one] for one in whole.outcome.path]
        of = [at for at, _ in whole.steps]
        found = np.stack([proven(places, of, along, one) for one in asked])
        orders, which = np.unique(found, axis=1, return_inverse=True)
        for number, order in enumerate(orders.T.tolist()):
            known = frozenset((one, at) for one, at in zip(asked, order, strict=True) if at >= 0)
            yield members[which.reshape(-1) == number], self._whole(outcomes, known) or whole

    def _whole(
        self, outcomes: tuple[_Told | None, ...], known: Proven = frozenset()
    ) -> _Whole | None:
        if (outcomes, known) not in self._known:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            self._known[outcomes, known] = self._judged(outcomes, known)
        return self._known[outcomes, known]

    def _judged(self, outcomes: tuple[_Told | None, ...], known: Proven) -> _Whole | None:
        """What became of a packet that was seen so; None if no packet can have been.

        Where the rules of one backend changed just then, the steps of the other may tell which held.
        """
        told = {at: one for at, one in enumerate(outcomes) if one is not None}
        found = [
            whole
            for some in product(*(one.possible for one in told.values()))
            for whole in self._ordered(dict(zip(told, some, strict=True)), known)
        ]
        found.sort(key=lambda one: not one.outcome.complete)
        if not found:
            return None
        best = found[0]
        equal = [one for one in found if one.outcome.complete == best.outcome.complete]
        if len(equal) == 1:
            return best
        doubt = best.outcome.doubt or next((one.doubt for one in told.values() if one.doubt), None)
        unsure = best.outcome.unsure | self._unsure(equal)
        return best._replace(outcome=replace(best.outcome, doubt=doubt, unsure=unsure))

    def _unsure(self, equal: Sequence[_Whole]) -> frozenset[int]:
        """The positions in the first one's path that are other rules in the others."""
        read: dict[tuple[int, int], set[object]] = {}
        for one in equal:
            for step, number in zip(one.steps, one.outcome.path, strict=True):
                read.setdefault(step, set()).add(reading(self._book.places[number]))
        return frozenset(at for at, step in enumerate(equal[0].steps) if len(read[step]) > 1)

    def _ordered(self, there: dict[int, Outcome], known: Proven) -> list[_Whole]:
        """The same for one choice of rules: the best of what can be, if anything.

        Rulesets that read the same may have other base chains; the first one is taken that leaves nothing out.
        """
        found: list[_Whole] = []
        for some in islice(product(*(one.paths for one in there.values())), _MOST_TRIED):
            numbered = zip(there, some, strict=True)
            paths = {at: self._book.path(at, one) for at, one in numbered}
            found += self._along(there, paths, known)
            if any(one.outcome.complete for one in found):
                break
        found.sort(key=lambda one: not one.outcome.complete)
        return found[:1]

    def _along(
        self, there: dict[int, Outcome], paths: dict[int, tuple[int, ...]], known: Proven
    ) -> list[_Whole]:
        """What can be along these paths of the parts, one for each order of the steps."""
        torn = any(one.doubt == TORN for one in there.values())
        if (
            len(there) > 1
        ):  # by itself each part may fit, and a commit explains that together they do not
            torn = torn or any(map(self._walker.changes, chain.from_iterable(paths.values())))
        copied = any(one.copied for one in there.values())
        found: list[_Whole] = []
        for steps, unordered in self._orders(there, paths, known):
            path = tuple(paths[part][at] for part, at in steps)
            outcome = self._walker.across_holes(path, torn=torn, copied=copied)
            if outcome is not None:
                outcome = replace(outcome, unordered=unordered)
                found.append(_Whole(self._with_doubts(outcome, there, steps), steps))
        if not found and len(there) == 1:
            ((at, one),) = there.items()
            broken = replace(
                one, path=paths[at], alike=(), complete=False, reason=one.reason or HOLES
            )
            found.append(_Whole(broken, [(at, step) for step in range(len(one.path))]))
        return found

    def _orders(
        self, there: dict[int, Outcome], paths: dict[int, tuple[int, ...]], known: Proven
    ) -> Iterator[Order]:
        """The steps of all parts, in each order that they can have.

        While rules change, a packet may pass chains that no ruleset has together.
        """
        blocks = {at: self._blocks(at, path) for at, path in paths.items()}
        grammar = self._grammar(chain.from_iterable(paths.values()))
        passes = {one.pass_ for some in blocks.values() for one in some}
        seen: list[Order] = []
        fewest = min(len(passes - route.keys()) for route in grammar.routes)
        for route in grammar.routes:
            if len(passes - route.keys()) > fewest or (fewest and len(there) == 1):
                continue
            ended = {at for at, one in there.items() if one.verdict in _ENDS}
            order = merged(blocks, route, ended, known)
            if order not in seen:
                seen.append(order)
                yield order

    def _grammar(self, places: Iterable[int]) -> Grammar:
        """Of a packet that came to these places."""
        met: Met = ()
        for one in places:
            met, last = self._book.meeting(met, one), one
        return self._book.judging(last, met)

    def _blocks(self, part: int, path: tuple[int, ...]) -> list[Block]:
        found = []
        start = 0
        places = [self._book.places[one] for one in path]
        for pass_, some in groupby(one.pass_ for one in places):
            stop = start + len(list(some))
            traced = part == 0 and places[start].target == "TRACE"
            rules = any(not (place.end or place.ours) for place in places[start:stop])
            found.append(Block(pass_, range(start, stop), traced, rules))
            start = stop
        return found

    def _with_doubts(
        self, outcome: Outcome, there: dict[int, Outcome], steps: Sequence[tuple[int, int]]
    ) -> Outcome:
        """The outcome by the rules of both, with what else is known of its parts."""
        if outcome.complete:
            passes = [self._book.places[one].pass_ for one in outcome.path]
            ended = passes[-1] if outcome.verdict in _ENDS else None
            if not self._grammar(outcome.path).passed_beside(passes, ended):
                outcome = replace(outcome, complete=False, reason=HOLES)
        if outcome.reason == HOLES and len(there) == 1:
            (part,) = there
            untold = f"of its way through the rules of {_OTHER[part]} nothing was recorded"
            outcome = replace(outcome, reason=untold)
        for at, one in there.items():
            # By its own rules it may have been accepted, and nobody told what then became of it.
            moot = {each.doubt for each in self._walkers[at].outcomes(one.path)}
            if one.doubt not in moot:
                outcome = replace(outcome, doubt=outcome.doubt or one.doubt)
        # What is missing may come yet, and so may the other's events.
        finished = outcome.finished and outcome.complete and len(there) > 1
        unsure = frozenset(i for i, (at, step) in enumerate(steps) if step in there[at].unsure)
        return replace(outcome, finished=finished, unsure=unsure)


def _stamps(events: TraceEvents, assembly: Assembly) -> I64:
    """The stamps of all events: nf_tables tells none, but a packet's arrival is the same for both backends."""
    stamps = events.stamp_ns.copy()
    if not len(assembly):
        return stamps
    rows = assembly.rows
    arriving = events.hook[rows] <= _FORWARD
    told = np.where(arriving & (stamps[rows] > 0), stamps[rows], _NEVER)
    arrival = np.repeat(np.minimum.reduceat(told, assembly.first), assembly.count)
    untold = arriving & (stamps[rows] == 0) & (arrival <= events.received_ns[rows])
    stamps[rows[untold]] = arrival[untold]
    return stamps


def _rows(parts: Sequence[Read], at: int, positions: I64, step: int) -> I64:
    """Of traversals of a part one event each; events are numbered through all parts."""
    assembly = parts[at].assembly
    return assembly.rows[assembly.first[positions] + step] + at * len(parts[0].events)


def _steps(parts: Sequence[Read], pairs: Pairs, whole: _Whole, members: I64) -> list[I64]:
    """The events of some pairs, step by step; events as `_rows` numbers them."""
    which = pairs.one[members], pairs.other[members]
    return [_rows(parts, at, which[at], step) for at, step in whole.steps]


def _told_of(parts: Sequence[Read]) -> ToldAlong:
    """What the events tell of the order of chains; events as `_rows` numbers them."""
    return ToldAlong(
        np.concatenate([one.events.mark for one in parts]).astype(np.int64),
        np.concatenate([one.events.sent_ns for one in parts]),
        np.concatenate([one.own for one in parts]),
    )


def _copies(parts: Sequence[Read], pairs: Pairs) -> I64:
    """Of each pair an event of the packet that it was copied from, -1: none; events as `_rows` numbers them."""
    found = np.full(len(pairs.one), -1)
    for part, which, before in zip(parts, pairs[:2], (0, len(parts[0].events)), strict=True):
        copied = np.append(part.assembly.copy_of, [-1])[which]
        found = np.where((found < 0) & (copied >= 0), copied + before, found)
    return found


def _told(assembly: Assembly) -> list[_Told]:
    """Of each outcome of a part."""
    found = []
    for one in assembly.outcomes:
        possible = assembly.possible.get(one, ())
        found.append(_Told(possible, one.doubt) if len(possible) > 1 else _Told((one,), None))
    return found


def _alike(parts: Sequence[Read], pairs: Pairs) -> Iterator[tuple[list[int], I64]]:
    """The positions of pairs that are judged alike: the outcomes of both (-1: none), and whether in doubt."""
    numbers = [
        np.where(which >= 0, np.append(part.assembly.outcome, [-1])[which], -1)
        for part, which in zip(parts, pairs[:2], strict=True)
    ]
    kinds = np.stack([*numbers, pairs.doubtful], axis=1)
    distinct, of, counts = np.unique(kinds, axis=0, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(of.reshape(-1), kind="stable"), np.cumsum(counts)[:-1])
    return zip(distinct.tolist(), members, strict=True)


def _side(part: Read, kinds: I64) -> Side:
    """``kinds``: of traversals, each of which is paired with its like."""
    assembly, events = part.assembly, part.events
    begun = assembly.rows[assembly.first]
    ended = assembly.rows[assembly.first + assembly.count - 1]
    packets = Packets.of(events, begun).dumped()
    sent = np.isin(events.hook[begun], _SENT).astype(np.uint64)
    loose = combined([packets.keys(), sent, kinds.astype(np.uint64)])
    return Side(
        exact=combined([loose, packets.flow_keys()]),
        loose=loose,
        outcome=assembly.outcome,
        first=begun,
        last=ended,
        earliest_ns=part.earliest_ns[begun],
        received_ns=events.received_ns[begun],
        latest_ns=events.received_ns[ended],
    )
