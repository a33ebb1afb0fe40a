"""Which packets the kernel dropped: records of drops, joined to the packets of the traces.

A record has the packet as it was when it was dropped, and the time of that. Its bytes find the packets that may
be it: what no rule rewrites (`identity`), and whether it was sent here or came in. Its time decides: the packet
had been at its last rule by then, and most reasons come at once. A packet that waits for a neighbour, or in a
queue, may be dropped seconds later. Where several packets stay, nobody is blamed: all of them may be it. Nor is
one of which copies went elsewhere: a bridge sends one by each of its ports, several sockets get a multicast.

Records of the host's drop monitor are of any packet, traced or not: a traced one came in by the same interface.
Where the host has other namespaces it may be of one of these, whose interfaces may have the same number.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.names import HOOKS, counted
from iptrec.packets.drop_records import Cause, DropRecords, Records, exact_keys, keys, to_many
from iptrec.packets.ends import DISCARDED
from iptrec.packets.identity import Packets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.outcome import Outcome
    from iptrec.recording.rows import Recording

_BY_RULES: Final = ("DROP", "REJECT")
_PASSED: Final = ("ACCEPT", "UNKNOWN", "QUEUE")
_BEYOND: Final = tuple(map(HOOKS.index, ("INPUT", "FORWARD", "POSTROUTING")))
_INPUT: Final = HOOKS.index("INPUT")
_SENT: Final = (HOOKS.index("OUTPUT"), HOOKS.index("POSTROUTING"))
_SLACK_NS: Final = 1_000_000  # between the clocks of events and drops
# How much later than its last event was received a packet is dropped at most. Little interrupts what comes in.
_AT_ONCE_NS: Final = 20_000_000
_SENDING_NS: Final = 100_000_000
_QUEUED_NS: Final = 2_000_000_000
_LATE_NS: Final = 5_000_000_000
_MOST_EQUAL: Final = 16  # of which each is looked at
_MOST_ROUNDS: Final = 16
_NONE: Final = np.zeros(0, np.int64)


class Ended(NamedTuple):
    """Traversals, with the ends of those that the kernel dropped; ``time_ns``: when (epoch), 0 for the others.

    ``disagree``: of how many the rules tell one end and the kernel another one.
    """

    assembly: Assembly
    time_ns: I64
    disagree: int = 0


class Dropped:
    """The packets of one namespace that the kernel dropped; it is asked for one window after the other."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._records = DropRecords(recording, namespace)

    def end(self, events: TraceEvents, earliest_ns: I64, assembly: Assembly, decided: int) -> Ended:
        """Tell the ends of the traversals of a window, of which the first ones are ``decided``."""
        nothing = Ended(assembly, np.zeros(len(assembly), np.int64))
        if not decided or not self._records.there:
            return nothing
        last = assembly.lasts()
        since_ns, until_ns = earliest_ns[last].min(), events.received_ns[last].max()
        records = self._records.between(int(since_ns) - _SLACK_NS, int(until_ns) + _LATE_NS)
        if not len(records.time_ns):
            return nothing
        causes = self._records.causes
        candidates = _Candidates(events, earliest_ns, assembly)
        found = candidates.found(records, causes)
        self._records.forget(found.used(decided, len(records.time_ns)))
        copied = candidates.copied(records, causes, found, self._records.bridges)
        return _ended(assembly, records, causes, found, copied, decided)


class _Found(NamedTuple):
    """Which traversal each of some records is of, and groups of records that are of some of several ones."""

    record: I64
    traversal: I64
    groups: list[tuple[I64, I64]]

    def used(self, decided: int, count: int) -> Mask:
        """Which of all records are not to be asked again: those of traversals that are decided."""
        used = np.zeros(count, np.bool_)
        used[self.record[self.traversal < decided]] = True
        for records, traversals in self.groups:
            used[records] |= bool(traversals.min() < decided)
        return used


class _Candidates:
    """Traversals of a window, as those that records may be of.

    ``since_ns``, ``until_ns``, ``late_ns``: between which times each can have been dropped, at once or late.
    """

    def __init__(self, events: TraceEvents, earliest_ns: I64, assembly: Assembly) -> None:
        last, outcomes = assembly.lasts(), assembly.outcomes
        self._packets = Packets.of(events, last)
        self._sent = np.isin(events.hook[assembly.rows[assembly.first]], _SENT)
        queued = np.array([one.queued for one in outcomes])[assembly.outcome]
        patience = np.where(self._sent, _SENDING_NS, _AT_ONCE_NS)
        self.since_ns = earliest_ns[last] - _SLACK_NS
        self.until_ns = events.received_ns[last] + np.where(queued, _QUEUED_NS, patience)
        self.late_ns = events.received_ns[last] + _LATE_NS
        self._came_in: Mask = events.hook[last] == _INPUT
        beyond = np.isin(events.hook[last], _BEYOND)
        self._onward: Mask = beyond & ~self._came_in
        self._out = events.outdev[last].astype(np.int64)
        first = assembly.rows[assembly.first]
        self._in = (events.indev[first], events.physindev[first], events.indev[last])
        self._routed: Mask = ~beyond | self._sent
        by_rules = np.array([one.verdict in _BY_RULES for one in outcomes])
        self._by_rules: Mask = by_rules[assembly.outcome]
        passed = np.array([one.verdict in _PASSED for one in outcomes])
        self._passed: Mask = passed[assembly.outcome]

    def copied(
        self, records: Records, causes: Sequence[Cause], found: _Found, bridges: I64
    ) -> Mask:
        """Of which of the found ones the kernel may have dropped a copy, while another one went on."""
        of_socket = np.array([one.of_socket for one in causes])[records.cause[found.record]]
        device, out = records.device[found.record], self._out[found.traversal]
        known = (device > 0) | records.any_packet[found.record]
        port = known & (device != out) & np.isin(out, bridges)
        several: Mask = port | (of_socket & to_many(self._packets)[found.traversal])
        return several

    def found(self, records: Records, causes: Sequence[Cause]) -> _Found:
        """Find whose they are."""
        flags = _Flags.of(causes, records)
        record, traversal, exact, crowds = self._alike(records, flags.late)
        fits = self._there(records, record, traversal, flags.late)
        fits &= (self._by_rules | self._passed)[traversal]
        fits &= ~records.any_packet[record] | self._of_any(
            records, flags.receiving[record], record, traversal
        )
        # What rules drop is netfilter's; where there is no such packet the kernel and the rules disagree.
        fits = _preferred(record, fits, flags.netfilter[record] == self._by_rules[traversal])
        fits &= self._can_be(flags, record, traversal)
        fits = _preferred(record, fits, ~(flags.discarding[record] & self._onward[traversal]))
        # Of what a bridge or IP copied the host's own copy came to INPUT, if a chain there tells of it.
        fits = _preferred(record, fits, flags.receiving[record] == self._came_in[traversal])
        # The last rule may have seen it before NAT, or not.
        fits = _preferred(record, fits, exact)
        found = _who_is_alone(records, record[fits], traversal[fits])
        parted = [
            (part, self._left(of, found, records, flags, part))
            for some, of in crowds
            for part in flags.parts(some, np.where(records.any_packet, records.iif, -1))
        ]
        return _by_count(records, found, parted)

    def _can_be(self, flags: _Flags, record: I64, traversal: I64) -> Mask:
        """Whether records can be of traversals, by how far these came."""
        ruled, onward = self._by_rules[traversal], self._onward[traversal]
        routed: Mask = ~flags.routing[record] | self._routed[traversal] | ruled
        return routed & (~flags.receiving[record] | ~onward | ruled)

    def _there(self, records: Records, record: I64, traversal: I64, late: Mask) -> Mask:
        """Whether records are of times when the packets may have been dropped."""
        time_ns = records.time_ns[record]
        until_ns = np.where(late[record], self.late_ns[traversal], self.until_ns[traversal])
        fits: Mask = (self.since_ns[traversal] <= time_ns) & (time_ns <= until_ns)
        return fits

    def _of_any(self, records: Records, receiving: Mask, record: I64, traversal: I64) -> Mask:
        """Whether records of any packets can be of traversals: by their interface, and how far these came."""
        iif = records.iif[record]
        same = [one[traversal].astype(np.int64) == iif for one in self._in]
        came: Mask = self._sent[traversal] | np.logical_or.reduce(same)
        return came & (receiving | ~self._came_in[traversal] | self._by_rules[traversal])

    def _left(self, of: I64, found: _Found, records: Records, flags: _Flags, some: I64) -> I64:
        """Which of a crowd some records, all of one kind, may be of."""
        first = np.full(len(of), some[0])
        kept = (self._by_rules[of] == flags.netfilter[first]) & self._can_be(flags, first, of)
        kept &= ~np.isin(of, found.traversal)
        kept &= ~records.any_packet[first] | self._of_any(
            records, flags.receiving[first], first, of
        )
        stayed = kept & ~(flags.discarding[first] & self._onward[of])
        return self._near(of[stayed if stayed.any() else kept], records.time_ns[some])

    def _near(self, of: I64, time_ns: I64) -> I64:
        """Those that were there at some of the times."""
        near: Mask = (self.since_ns[of] <= time_ns.max()) & (self.until_ns[of] >= time_ns.min())
        near &= (self._by_rules | self._passed)[of]
        found: I64 = of[near]
        return found

    def _alike(self, records: Records, late: Mask) -> tuple[I64, I64, Mask, list[tuple[I64, I64]]]:
        """Pairs of records and traversals with equal keys, and which are equal in what NAT rewrites, too.

        And crowds, too many to look at each pair; those that are equal in all come first there, too.
        """
        pairs, crowds = [(_NONE, _NONE, np.zeros(0, np.bool_))], []
        for cut in np.unique(records.cut).tolist():
            record = np.flatnonzero(records.cut == cut)
            own = keys(self._packets, self._sent, cut)
            exact = exact_keys(self._packets, self._sent, cut)
            one, of, many = _equal(records.key[record], own)
            pairs.append((record[one], of, records.exact[record[one]] == exact[of]))
            for some, others in many:
                every = record[some]
                one, of, still = _equal(records.exact[every], exact[others])
                near = self._there(records, every[one], others[of], late)
                one, of = every[one[near]], others[of[near]]
                pairs.append((one, of, np.ones(len(of), np.bool_)))
                crowds += [(every[some], others[of]) for some, of in still]
                settled = np.concatenate([one, *(every[some] for some, _ in still)])
                crowds.append((np.setdiff1d(every, settled), others))
        record, of, same = (np.concatenate(some) for some in zip(*pairs, strict=True))
        return record, of, same, [one for one in crowds if len(one[0])]


class _Flags(NamedTuple):
    """What the causes of some records are; shape (n,) each."""

    netfilter: Mask
    routing: Mask
    receiving: Mask
    discarding: Mask
    late: Mask

    @classmethod
    def of(cls, causes: Sequence[Cause], records: Records) -> _Flags:
        """Those of records."""
        each = ([getattr(one, name) for one in causes] for name in cls._fields)
        return cls(*(np.array(one, np.bool_)[records.cause] for one in each))

    def parts(self, some: I64, apart: I64) -> list[I64]:
        """Records put together that are of one kind, and for which a number is the same."""
        kinds = np.stack([apart[some], *(one[some] for one in self[:-1])], axis=1)
        _, number = np.unique(kinds, axis=0, return_inverse=True)
        number = number.reshape(-1)
        return [some[number == kind] for kind in range(int(number.max()) + 1)]


def _equal(wanted: U64, own: U64) -> tuple[I64, I64, list[tuple[I64, I64]]]:
    """Which numbers are equal, as pairs of places in both; and the places where too many are."""
    order = np.argsort(own, kind="stable")
    first = np.searchsorted(own[order], wanted)
    count = np.searchsorted(own[order], wanted, side="right") - first
    many = count > _MOST_EQUAL
    crowds = []
    for start in np.unique(first[many]).tolist():
        some = np.flatnonzero(many & (first == start))
        crowds.append((some, order[start : start + int(count[some[0]])]))
    found, first, count = np.flatnonzero(~many), first[~many], count[~many]
    step = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(found, count), order[np.repeat(first, count) + step], crowds


def _preferred(record: I64, fits: Mask, likely: Mask) -> Mask:
    """Of the pairs that fit those that are likely, where a record has any."""
    any_likely = np.zeros(int(record.max(initial=-1)) + 1, np.bool_)
    any_likely[record[fits & likely]] = True
    preferred: Mask = fits & (likely | ~any_likely[record])
    return preferred


def _who_is_alone(records: Records, record: I64, traversal: I64) -> _Found:
    """Settle the pairs of records that can be of one traversal only, again and again: it is dropped once.

    The others are in groups, those that share a traversal together.
    """
    sure = [(_NONE, _NONE)]
    for _ in range(_MOST_ROUNDS):
        alone = np.bincount(record)[record] == 1 if len(record) else np.zeros(0, np.bool_)
        if not alone.any():
            break
        sure.append((record[alone], traversal[alone]))
        left = ~np.isin(traversal, traversal[alone])
        record, traversal = record[left], traversal[left]
    found = [np.concatenate(some) for some in zip(*sure, strict=True)]
    return _Found(found[0], found[1], list(_groups(records, record, traversal)))


def _groups(records: Records, record: I64, traversal: I64) -> Iterator[tuple[I64, I64]]:
    """The records and traversals of pairs that are connected.

    Those have equal keys; and a record may be of traversals that follow each other.
    """
    if not len(record):
        return
    _, key = np.unique(records.key[record], return_inverse=True)
    order = np.lexsort((record, records.time_ns[record], key))
    record, traversal, key = record[order], traversal[order], key[order]
    starts = np.flatnonzero(np.diff(record, prepend=-1))
    offset = key[starts] * (int(traversal.max()) + 1)
    lowest = np.minimum.reduceat(traversal, starts) + offset
    reach = np.maximum.accumulate(np.maximum.reduceat(traversal, starts) + offset)
    apart = np.append(True, lowest[1:] > reach[:-1])
    edges = starts[apart][1:]
    for some, of in zip(np.split(record, edges), np.split(traversal, edges), strict=True):
        yield np.unique(some), np.unique(of)


def _by_count(records: Records, found: _Found, crowds: list[tuple[I64, I64]]) -> _Found:
    """Settle the groups that have as many records as traversals, all for one cause: each was dropped."""
    sure, groups = [(found.record, found.traversal)], []
    for some, of in [*found.groups, *crowds]:
        if not (len(some) and len(of)):
            continue
        if len(some) == len(of) and len(np.unique(records.cause[some])) == 1:
            sure.append((some[np.argsort(records.time_ns[some], kind="stable")], np.sort(of)))
        else:
            groups.append((some, of))
    record, traversal = (np.concatenate(each) for each in zip(*sure, strict=True))
    return _Found(record, traversal, groups)


def _ended(
    assembly: Assembly,
    records: Records,
    causes: Sequence[Cause],
    found: _Found,
    copied: Mask,
    decided: int,
) -> Ended:
    """The traversals with what the records tell of them; ``copied``: of the found ones, see `_Candidates`."""
    by_rules = np.array([one.verdict in _BY_RULES for one in assembly.outcomes])[assembly.outcome]
    certain = np.array([one.complete and one.doubt is None for one in assembly.outcomes])
    netfilter = np.array([one.netfilter for one in causes])[records.cause[found.record]]
    ruled = by_rules[found.traversal]
    differ = (ruled | netfilter) & (ruled != netfilter) & (found.traversal < decided)
    differ &= ~records.elsewhere[found.record]
    disagree = int((differ & certain[assembly.outcome[found.traversal]]).sum())
    order = np.argsort(records.time_ns[found.record], kind="stable")  # the last one counts
    order = order[~ruled[order]]
    made = _Made(assembly, causes)
    elsewhere = records.elsewhere[found.record]
    for one, make in (
        (order[elsewhere[order]], _or_elsewhere),
        (order[(copied & ~elsewhere)[order]], _one_of_its_copies),
        (order[~(copied | elsewhere)[order]], _lost),
    ):
        record, traversal = found.record[one], found.traversal[one]
        made.replace(traversal, records.cause[record], make)
        made.time_ns[traversal] = records.time_ns[record]
    for some, of in found.groups:
        if not causes[records.cause[some[0]]].netfilter:
            doubtful = partial(_doubtful, dropped=len(some), of=len(of))
            made.replace(of, records.cause[some[:1]], doubtful)
            made.time_ns[of] = records.time_ns[some].min()
    assembly = replace(assembly, outcome=made.outcome, outcomes=made.outcomes)
    return Ended(assembly, made.time_ns, disagree)


class _Made:
    """Outcomes that are made of those of an assembly."""

    def __init__(self, assembly: Assembly, causes: Sequence[Cause]) -> None:
        self._before = assembly
        self._causes = causes
        self.outcome = assembly.outcome.copy()
        self.outcomes = [*assembly.outcomes]
        self.time_ns = np.zeros(len(assembly), np.int64)

    def replace(
        self, traversal: I64, cause: I64, make: Callable[[Outcome, Cause], Outcome]
    ) -> None:
        """Give traversals another outcome, made of the one before and a cause; all may have the same."""
        pair = self._before.outcome[traversal] << 32 | cause
        distinct, inverse = np.unique(pair, return_inverse=True)
        first = len(self.outcomes)
        self.outcomes += [
            make(self._before.outcomes[one >> 32], self._causes[one & 0xFFFFFFFF])
            for one in distinct.tolist()
        ]
        self.outcome[traversal] = first + inverse


def _lost(before: Outcome, cause: Cause) -> Outcome:
    """An outcome, with the packet dropped behind the rules."""
    whole = before.complete or before.endless
    return replace(
        before,
        verdict=DISCARDED,
        decider=None,
        complete=whole,
        finished=True,
        reason=None if whole else before.reason,
        endless=False,
        vanished=None,
        death=cause.death(sure=True),
    )


def _one_of_its_copies(before: Outcome, cause: Cause) -> Outcome:
    """An outcome, with the packet dropped perhaps, or one of its copies."""
    return _in_doubt(before, cause, "the kernel dropped it, or one of its copies and not all")


def _or_elsewhere(before: Outcome, cause: Cause) -> Outcome:
    """An outcome, with the packet dropped perhaps, or an equal one that nobody traces."""
    told = "the kernel dropped it, or an equal packet in another namespace or before tracing"
    return _in_doubt(before, cause, told)


def _doubtful(before: Outcome, cause: Cause, dropped: int, of: int) -> Outcome:
    """An outcome, with the packet dropped perhaps."""
    doubt = f"the kernel dropped {dropped:,} of {counted(of, 'equal packet')}, perhaps this one"
    return _in_doubt(before, cause, doubt)


def _in_doubt(before: Outcome, cause: Cause, doubt: str) -> Outcome:
    told = "; ".join(filter(None, (before.doubt, doubt)))
    return replace(before, doubt=told, death=cause.death(sure=False))
