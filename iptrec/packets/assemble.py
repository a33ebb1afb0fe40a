"""Events into packets.

Events with equal keys (`identity`) are candidates for one packet. Almost always a key belongs to one
packet at a time: then its events, cut where a trace can begin, are the paths of the packets, and the
grammar confirms each distinct path once. Only where it does not, or where the arrival stamps differ
(equal packets in flight together, or lost events), are the events of that key dealt out one by one to
the packets that are under way. Where the ruleset changed meanwhile, `settle` has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.packets import rewritten, userspace
from iptrec.packets.dealt_alike import Dealer, Keys
from iptrec.packets.fragments import put_together, reassemble
from iptrec.packets.identity import MIX, ODD
from iptrec.packets.ruleset_choice import settle
from iptrec.packets.runs import by_keys

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I32, I64, U64, Mask
    from iptrec.packets.copies import Logged
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.userspace import Spans
    from iptrec.packets.walk import Walker
    from iptrec.rulesets.places import Pass
    from iptrec.rulesets.resolver import Resolved, Resolver

# enum nf_inet_hooks; hooks after FORWARD have no arrival stamp
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(5)
_MOST_PLACES: Final = 1024  # of which a table of all pairs is made


@dataclass(frozen=True, slots=True)
class Assembly:
    """The traversals of a batch, in order of their first event.

    ``rows`` holds event numbers, traversal after traversal; traversal t has
    ``rows[first[t] : first[t] + count[t]]``, in order. ``outcome[t]`` indexes ``outcomes``. ``possible``: what
    outcomes may be of which the rules changed just then. ``copy_of[t]``: an event of the traversal that the
    kernel copied it from; -1: none. ``ours``: how many events told only that something, such as a copy that met
    no rule of the user's, came to a chain of our own.
    """

    rows: I64
    first: I64
    count: I64
    outcome: I64
    outcomes: list[Outcome]
    possible: dict[Outcome, tuple[Outcome, ...]]
    copy_of: I64
    ours: int = 0

    def __len__(self) -> int:
        """How many traversals."""
        return len(self.first)

    def lasts(self) -> I64:
        """The event of each traversal that came last."""
        return np.maximum.reduceat(self.rows, self.first) if len(self) else self.first

    def origins(self) -> I64:
        """The traversal that each was copied from; -1: none."""
        if not (self.copy_of >= 0).any():
            return self.copy_of
        owner = np.full(self.rows.max() + 2, -1)  # the last one stands for none
        owner[self.rows] = np.repeat(np.arange(len(self)), self.count)
        return owner[self.copy_of]

    def events(self, traversal: int) -> I64:
        """The event numbers of one traversal."""
        start = self.first[traversal]
        return self.rows[start : start + self.count[traversal]]


@dataclass(slots=True)
class _Options:
    """Numbers for equal sets of outcomes."""

    seen: dict[tuple[Outcome, ...], int] = field(default_factory=dict)

    def number(self, outcomes: tuple[Outcome, ...]) -> int:
        return self.seen.setdefault(outcomes, len(self.seen))


def assemble(
    events: TraceEvents,
    resolved: Resolved,
    resolver: Resolver,
    walker: Walker,
    arrival_ns: int | None,
    logged: Logged,
    fixed: Mask | None = None,
    given: U64 | None = None,
) -> Assembly:
    """Group the events of one stream into traversals.

    ``resolved`` is `Resolver.resolve` of the events; those without a place are left out. ``arrival_ns``:
    since when (epoch) packets were stamped as they arrived, so that the stamped events of one have the
    same stamp, mostly; None: never. ``fixed``, ``given``: see `by_keys`.
    """
    place = resolved.place
    known = np.flatnonzero(place >= 0)
    if len(known) == 0:
        nothing = np.zeros(0, np.int64)
        return Assembly(nothing, nothing, nothing, nothing, [], {}, nothing)

    rows, keys = by_keys(events, known, fixed, given)
    path = place[rows]
    new_key = np.concatenate([[True], keys[1:] != keys[:-1]])
    first = np.flatnonzero(new_key | _begins(path, resolver))
    count = np.diff(first, append=len(rows))
    options = _Options()
    option = _judge(path, first, count, walker, options)
    stamp = _arrival_stamps(events, arrival_ns)
    group = np.cumsum(new_key[first]) - 1
    doubtful = _impossible_or_cut(group, option, options) | _mixed(group, stamp[rows], first)
    doubtful |= _of_several(group, events.trace[rows], path, first, resolver)
    doubtful |= _in_one_buffer(group, events.trace[rows], path, first, resolver)
    doubtful |= _out_of_bridge(group, path[first], resolver)

    clear = ~doubtful
    event_clear = np.repeat(clear, count)
    dealer = Dealer(events, stamp, resolved.last > resolved.first, logged, walker, options.number)
    dealt = dealer.deal(
        Keys(rows[~event_clear], path[~event_clear], _sizes(count, doubtful, group))
    )
    spans = in_order(
        rows=np.concatenate([rows[event_clear], dealt.rows]),
        count=np.concatenate([count[clear], dealt.counts]),
        option=np.concatenate([option[clear], dealt.option]),
    )
    starts = np.array([one.starts for one in resolver.places])
    spans = userspace.rejoin(events, place, spans, options.seen, walker, starts)
    spans = rewritten.rejoin(events, place, spans, options.seen, walker, starts, resolver.places)
    spans, ours = _without_ours(events, place, spans, resolver)
    outcome, outcomes, possible = settle(events, resolved, resolver, *spans, list(options.seen))
    rows, first, count, _ = spans
    fates = reassemble(events, rows[first], outcome, outcomes)
    copied_from = np.full(len(events), -1)
    copied_from[dealt.copies] = dealt.origins
    copy_of = copied_from[rows[first]]
    return Assembly(rows, first, count, *fates, possible, copy_of, ours)


def _without_ours(
    events: TraceEvents, place: I32, spans: Spans, resolver: Resolver
) -> tuple[Spans, int]:
    """Leave out what our last chains alone saw, such as copies that a bridge floods; how many events.

    What becomes of those copies no rule decides; the packet that they were copied from is told. What was put
    together from fragments is no copy: it is where they ended.
    """
    rows, first, count, option = spans
    late = np.array([one.late for one in resolver.places])
    shown = ~np.logical_and.reduceat(late[place[rows]], first)
    if not shown.all():
        shown |= put_together(events, rows[first])
    kept = rows[np.repeat(shown, count)]
    if len(kept) == len(rows):
        return spans, 0
    count = count[shown]
    first = np.concatenate([[0], np.cumsum(count)])[:-1]
    return (kept, first, count, option[shown]), len(rows) - len(kept)


def _begins(path: npt.NDArray[np.int32], resolver: Resolver) -> Mask:
    """Where a trace begins: in a chain where it can, unless the event before leads on to it there."""
    starts = np.array([place.starts for place in resolver.places])
    count = len(starts)
    here, before = path[1:], path[:-1]
    if count > _MOST_PLACES:
        leads_on = _leads_on(before, here, resolver)
    else:  # events have few different places: each pair of them is judged once
        pair = before * np.int32(count) + here
        known = np.zeros(count * count, np.bool_)
        known[pair] = True
        pairs = np.flatnonzero(known)
        known[pairs] = _leads_on(*divmod(pairs, count), resolver)
        leads_on = known[pair]
    begins: Mask = np.concatenate([[True], starts[here] & ~leads_on])
    return begins


def _leads_on(
    before: npt.NDArray[np.integer], here: npt.NDArray[np.integer], resolver: Resolver
) -> Mask:
    """Whether a trace goes on from each place ``before`` to that ``here``."""
    builtin = np.array([place.builtin for place in resolver.places])
    hook = np.array([place.hook for place in resolver.places])
    bridged = np.array([place.bridged for place in resolver.places])
    rank = np.array([place.rank for place in resolver.places])
    index = np.array([-1 if place.index is None else place.index for place in resolver.places])
    numbers: dict[Pass, int] = {}
    passed = np.array([numbers.setdefault(one.pass_, len(numbers)) for one in resolver.places])
    ahead = (passed[before] != passed[here]) | ~builtin[before] | (index[before] < index[here])
    ahead &= rank[before] == rank[here]
    leads_on: Mask = (hook[before] == hook[here]) & ((rank[before] < rank[here]) | ahead)
    # IP hands what it sends over to the bridge; what it forwards, too.
    sends = (hook[before] == _OUTPUT) | (hook[before] == _FORWARD) | (hook[before] == _POSTROUTING)
    leads_on |= bridged[here] & (hook[here] == _OUTPUT) & ~bridged[before] & sends
    leads_on |= (
        bridged[before] & bridged[here] & (hook[before] == _PREROUTING) & (hook[here] == _INPUT)
    )
    # A bridge hands what is for its host over to IP.
    leads_on |= (
        bridged[before] & (hook[before] == _INPUT) & ~bridged[here] & (hook[here] == _PREROUTING)
    )
    return leads_on


def _judge(
    path: npt.NDArray[np.int32], first: I64, count: I64, walker: Walker, options: _Options
) -> I64:
    """The number of each candidate's possible outcomes, -1 where no packet can have taken that path."""
    position = np.arange(len(path)) - np.repeat(first, count)
    mixed = (path.astype(np.uint64) + np.uint64(1)) * ODD ^ position.astype(np.uint64) * MIX
    mixed ^= mixed >> np.uint64(31)
    signature = np.add.reduceat(mixed * MIX, first)
    _, example, inverse = np.unique(signature, return_index=True, return_inverse=True)
    numbers = np.empty(len(example), np.int64)
    for i, candidate in enumerate(example):
        start = first[candidate]
        found = walker.outcomes(tuple(path[start : start + count[candidate]].tolist()))
        numbers[i] = options.number(found) if found else -1
    # The hash proposes which paths are equal, the paths decide.
    model = example[inverse]
    equal = path[np.minimum(np.repeat(first[model], count) + position, len(path) - 1)] == path
    same = (count[model] == count) & np.logical_and.reduceat(equal, first)
    return np.where(same, numbers[inverse], -1)


def _arrival_stamps(events: TraceEvents, since_ns: int | None) -> I64:
    """When the packet of each event arrived; 0 if not known."""
    if since_ns is None:
        return np.zeros(len(events), np.int64)
    valid = (events.hook <= _FORWARD) & (events.received_ns > since_ns)
    return np.where(valid, events.stamp_ns, 0)


def _impossible_or_cut(group: I64, option: I64, options: _Options) -> Mask:
    """Candidates whose key's events must be dealt out one by one.

    A path that cannot be; or several candidates of a key of which one is cut short: its other events may
    have gone to its neighbour. ``group``: the key's number, for each candidate.
    """
    complete = np.array([all(one.complete for one in some) for some in options.seen] + [False])
    impossible = np.bincount(group, option < 0) > 0
    several = np.bincount(group) > 1
    cut = np.bincount(group, ~complete[option]) > 0
    doubtful: Mask = (impossible | (several & cut))[group]
    return doubtful


def _mixed(group: I64, stamp: I64, first: I64) -> Mask:
    """The same for candidates with events of different stamps, if their key has more that are stamped.

    Alone it may be a packet that a socket of this host sent: it keeps the time that it was to be sent
    at, and its stamps are those of its events.
    """
    latest = np.maximum.reduceat(stamp, first)
    earliest = np.minimum.reduceat(np.where(stamp > 0, stamp, np.iinfo(np.int64).max), first)
    differ = np.bincount(group, (latest > 0) & (earliest != latest)) > 0
    rivals = np.bincount(group, latest > 0) > 1
    mixed: Mask = (differ & rivals)[group]
    return mixed


def _of_several(
    group: I64, trace: I64, path: npt.NDArray[np.int32], first: I64, resolver: Resolver
) -> Mask:
    """The same for candidates in which the kernel's id changes in the midst of a base chain.

    From one base chain to the next it may, after NAT for one.
    """
    if len(trace) == 0 or trace.max() < 0:
        return np.zeros(len(first), np.bool_)
    numbers: dict[Pass, int] = {}
    passes = [numbers.setdefault(place.pass_, len(numbers)) for place in resolver.places]
    passed = np.array(passes, np.int64)[path]
    changes = np.zeros(len(path), np.int64)
    changes[1:] = (trace[1:] != trace[:-1]) & (passed[1:] == passed[:-1])
    changes[first] = 0
    several: Mask = (np.bincount(group, np.add.reduceat(changes, first)) > 0)[group]
    return several


def _in_one_buffer(
    group: I64, trace: I64, path: npt.NDArray[np.int32], first: I64, resolver: Resolver
) -> Mask:
    """The same for candidates that begin at the hook where the one before ended, with the kernel's id of it.

    While rules change, chains before those that trace come and go, and so does which of them is the first; a
    chain that moves may be at either hook.
    """
    begun = first[1:]
    same = (trace[begun] == trace[begun - 1]) & (trace[begun] >= 0) & (group[1:] == group[:-1])
    if not same.any():  # as always in legacy iptables
        return np.zeros(len(first), np.bool_)
    hooks = np.zeros(len(resolver.places), np.int64)
    for at, choices in enumerate(resolver.choices):
        hooks[at] = np.bitwise_or.reduce(
            [1 << min(resolver.places[one].hook, 62) for one in choices]
        )
    same &= (hooks[path[begun]] & hooks[path[begun - 1]]) != 0
    torn: Mask = (np.bincount(group, np.append([False], same)) > 0)[group]
    return torn


def _out_of_bridge(group: I64, begun: npt.NDArray[np.int32], resolver: Resolver) -> Mask:
    """The same for those that begin where a bridge sends what its host gave it: they may be copies."""
    places = resolver.places
    sends = np.array([one.bridged and one.hook == _OUTPUT for one in places], np.bool_)[begun]
    copies: Mask = (np.bincount(group, sends) > 0)[group]
    return copies


def _sizes(count: I64, doubtful: Mask, group: I64) -> I64:
    """How many events each key with doubtful candidates has: all of a key's are doubtful, or none."""
    sizes = np.bincount(group, count * doubtful).astype(np.int64)
    return sizes[sizes > 0]


def in_order(*, rows: I64, count: I64, option: I64) -> tuple[I64, I64, I64, I64]:
    """Sort the traversals by their first event: rows, first, count, option."""
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    order = np.argsort(np.minimum.reduceat(rows, first), kind="stable")
    count_ordered = count[order]
    new_first = np.concatenate([[0], np.cumsum(count_ordered)[:-1]])
    source = np.repeat(first[order] - new_first, count_ordered) + np.arange(len(rows))
    return rows[source], new_first, count_ordered, option[order]
