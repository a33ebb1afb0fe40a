"""Which packets the kernel dropped: records of drops, joined to the packets of the traces.

A record has the packet as it was when it was dropped, and the time of that. Its bytes find the packets that may
be it: what no rule rewrites (`identity`), addresses and ports unless NAT may have changed them, and whether it
was sent here or came in. So does the place: what is for this host dies elsewhere than what is forwarded, and
at a device only what leaves by it. The time decides: the packet had been at its last rule by then, and most
reasons come at once. A packet that waits for a neighbour, or in a queue, may be dropped seconds later. Where
several packets stay, nobody is blamed: all of them may be it.

A bridge makes copies that no rule tells of, and so do the sockets of a group: with the packet's own bytes, and
traced as it is. What was dropped may be one of several: the packet keeps its verdict then.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.context.stacked import Stacked
from iptrec.decode import nftrace
from iptrec.names import HOOKS, counted
from iptrec.packets.drop_records import Cause, DropRecords, Records, keys, transports
from iptrec.packets.drop_words import NO_DATA
from iptrec.packets.ends import DISCARDED
from iptrec.packets.identity import Packets, combined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.drop_records import Keys
    from iptrec.packets.outcome import Outcome
    from iptrec.recording.rows import Recording

_BY_RULES: Final = ("DROP", "REJECT")
_PASSED: Final = ("ACCEPT", "UNKNOWN", "QUEUE")
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
_BEYOND: Final = (_INPUT, _FORWARD, _POSTROUTING)
_SENT: Final = (_OUTPUT, _POSTROUTING)
_GOING: Final = (_FORWARD, _POSTROUTING)
_TRANSLATED: Final = (_PREROUTING, _OUTPUT)  # where the destination is
_SLACK_NS: Final = 1_000_000  # between the clocks of events and drops
# How much later than its last event was received a packet is dropped at most. Little interrupts what comes in.
_AT_ONCE_NS: Final = 20_000_000
_SENDING_NS: Final = 100_000_000
_QUEUED_NS: Final = 2_000_000_000
_LATE_NS: Final = 5_000_000_000
_MOST_EQUAL: Final = 16  # of which each is looked at
_MOST_PAIRS: Final = 1024  # of a crowd of equal ones
_MOST_ROUNDS: Final = 16
_MOST_KINDS: Final = 64  # of records of one crowd
_IN_COMMON: Final = ("cause", "device", "cloned", "many")
_GAP: Final = 40  # what nf_tables dumps before it, bytes
_NO_COPY: Final = "none of its copies arrived; one was dropped"
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
        self._recording, self._namespace = recording, namespace

    @cached_property
    def _stacked(self) -> Stacked:
        return Stacked(self._recording, self._namespace)

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
        candidates = _Candidates(events, earliest_ns, assembly, self._stacked)
        found = candidates.found(records, causes)
        self._records.forget(found.used(decided, len(records.time_ns)))
        return _ended(assembly, records, causes, found, decided, candidates.came_in)


class _Found(NamedTuple):
    """Which traversal each of some records is of, and groups of records that are of some of several ones.

    ``copies``: pairs of a record and a traversal of which a copy was dropped.
    """

    record: I64
    traversal: I64
    groups: list[tuple[I64, I64]]
    copies: tuple[I64, I64] = (_NONE, _NONE)

    def used(self, decided: int, count: int) -> Mask:
        """Which of all records are not to be asked again: those of traversals that are decided."""
        used = np.zeros(count, np.bool_)
        for record, traversal in ((self.record, self.traversal), self.copies):
            used[record[traversal < decided]] = True
        for records, traversals in self.groups:
            used[records] |= bool(traversals.min() < decided)
        return used


class _Candidates:
    """Traversals of a window, as those that records may be of.

    ``since_ns``, ``until_ns``, ``late_ns``: between which times each can have been dropped, at once or late.
    """

    def __init__(
        self, events: TraceEvents, earliest_ns: I64, assembly: Assembly, stacked: Stacked
    ) -> None:
        last, outcomes = assembly.lasts(), assembly.outcomes
        self._packets = Packets.of(events, last)
        self._transport = _transports(self._packets, events, last)
        self._stacked = stacked
        self._sent = np.isin(events.hook[assembly.rows[assembly.first]], _SENT)
        queued = np.array([one.queued for one in outcomes])[assembly.outcome]
        patience = np.where(self._sent, _SENDING_NS, _AT_ONCE_NS)
        self.since_ns = earliest_ns[last] - _SLACK_NS
        self.until_ns = events.received_ns[last] + np.where(queued, _QUEUED_NS, patience)
        self.late_ns = events.received_ns[last] + _LATE_NS
        self._hook = events.hook[last]
        self._device = events.outdev[last].astype(np.int64)
        self.came_in: Mask = self._hook == _INPUT
        self._going: Mask = np.isin(self._hook, _GOING)
        self._routed: Mask = ~np.isin(self._hook, _BEYOND) | self._sent
        by_rules = np.array([one.verdict in _BY_RULES for one in outcomes])
        self._by_rules: Mask = by_rules[assembly.outcome]
        passed = np.array([one.verdict in _PASSED for one in outcomes])
        self._finished: Mask = self._by_rules | passed[assembly.outcome]

    def found(self, records: Records, causes: Sequence[Cause]) -> _Found:
        """Find whose they are."""
        self._kinds = _Kinds.of(records, causes)
        record, traversal, exact, same, crowds = self._alike(records)
        fits = same & self._possible(records, record, traversal)
        for likely in self._likely(record, traversal):
            fits = _preferred(record, fits, likely)
        # The last rule may have seen it before NAT, or not.
        fits = _preferred(record, fits, exact)
        record, traversal = record[fits], traversal[fits]
        copied = self._of_copy(records, record, traversal)
        alone = _who_is_alone(record[~copied], traversal[~copied])
        parts = [part for one in crowds for part in self._parted(records, one)]
        found = _by_count(records, alone, [part for part in parts if not part[2]])
        doubtful = [(some, of) for some, of, copies in parts if copies]
        return found._replace(
            groups=[*found.groups, *doubtful], copies=(record[copied], traversal[copied])
        )

    def _likely(self, record: I64, traversal: I64) -> tuple[Mask, Mask]:
        """Which pairs are to be preferred, in turn: by who drops, and by how far the packet came."""
        kinds = self._kinds
        # What rules drop is netfilter's; where there is no such packet the kernel and the rules disagree.
        rules = kinds.netfilter[record] == self._by_rules[traversal]
        # Of what a bridge or IP copied the host's own copy came to INPUT, if a chain there tells of it.
        seen = ~kinds.receiving[record] | self.came_in[traversal]
        gone = self._going[traversal] | self._sent[traversal]
        return rules, seen & (~kinds.leaving[record] | gone)

    def _possible(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Whether each of some records may be of a traversal, by time and place."""
        time_ns, late = records.time_ns[record], self._kinds.late[record]
        until_ns = np.where(late, self.late_ns[traversal], self.until_ns[traversal])
        fits: Mask = (self.since_ns[traversal] <= time_ns) & (time_ns <= until_ns)
        return fits & self._placed(records, record, traversal)

    def _placed(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Whether the packet may have come to where the record is from: by its last hook, and its device."""
        kinds, going = self._kinds, self._going[traversal]
        fits = self._routed[traversal] | ~kinds.routing[record]
        here = (kinds.receiving | kinds.discarding)[record]
        fits &= ~here | ~going | self._sent[traversal]
        fits &= ~kinds.leaving[record] | ~self.came_in[traversal]
        told = fits & kinds.leaving[record] & going
        told &= (self._device[traversal] > 0) & (records.device[record] > 0)
        check = np.flatnonzero(told)
        fits[check] = self._below(records.device[record[check]], self._device[traversal[check]])
        placed: Mask = self._finished[traversal] & (fits | self._by_rules[traversal])
        return placed

    def _below(self, lower: I64, upper: I64) -> Mask:
        """Whether each device lies below the other one, or is it."""
        pair, inverse = np.unique(lower << 32 | upper, return_inverse=True)
        told = [self._stacked.below(one >> 32, one & 0xFFFFFFFF) for one in pair.tolist()]
        below: Mask = np.array(told, np.bool_)[inverse]
        return below

    def _translated(self, records: Records, record: I64, traversal: I64, own: Keys) -> Mask:
        """Whether what differs of addresses and ports may be NAT's: each comes behind some hooks alone."""
        hook = self._hook[traversal]
        destination = records.destination[record] == own.destination[traversal]
        destination |= np.isin(hook, _TRANSLATED)
        source = records.source[record] == own.source[traversal]
        source |= (hook != _PREROUTING) | ~self._kinds.routing[record]
        same: Mask = source & destination
        return same

    def _of_copy(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Whether it may have been one of several copies of the packet that no rule tells of.

        A port of a bridge sends what left by the bridge, each socket of a group has its own.
        """
        kinds, device = self._kinds, records.device[record]
        of_many = records.many[record] & (kinds.of_socket | kinds.leaving)[record]
        port = np.isin(device, list(self._stacked.ports))
        elsewhere = kinds.leaving[record] & port & (self._device[traversal] != device)
        copied: Mask = records.cloned[record] & (of_many | elsewhere)
        return copied & ~self._by_rules[traversal]

    def _parted(self, records: Records, crowd: _Crowd) -> Iterator[tuple[I64, I64, bool]]:
        """A crowd by what its records have in common: some, whose they may be, whether of copies."""
        some, of, own = crowd
        kind = combined(
            [
                *(getattr(records, name)[some].astype(np.uint64) for name in _IN_COMMON),
                records.source[some],
                records.destination[some],
            ]
        )
        for one in np.unique(kind)[:_MOST_KINDS]:
            part = some[kind == one]
            example, late = np.full(len(of), part[0]), self._kinds.late[part[0]]
            until_ns = self.late_ns if late else self.until_ns
            near = self._placed(records, example, of)
            near &= (self.since_ns[of] <= records.time_ns[part].max()) & (
                until_ns[of] >= records.time_ns[part].min()
            )
            near &= (own.exact[of] == records.exact[example]) | self._translated(
                records, example, of, own
            )
            for likely in self._likely(example, of):
                near &= likely | ~(near & likely).any()
            if near.any():
                copies = bool(self._of_copy(records, example, of)[near].any())
                yield part, of[near], copies

    def _alike(self, records: Records) -> tuple[I64, I64, Mask, Mask, list[_Crowd]]:
        """Pairs of records and traversals with equal keys, which are equal in all, and which but for NAT.

        And crowds, too many to look at each pair: of those that are equal in all, or where there is none.
        """
        pairs, crowds = [(_NONE, _NONE, _NONE.astype(np.bool_), _NONE.astype(np.bool_))], []
        for cut in np.unique(records.cut).tolist():
            record = np.flatnonzero(records.cut == cut)
            own = keys(self._packets, self._sent, cut, self._transport)
            equal = _Equal(own.key, records.key[record])
            alike = _Equal(own.exact, records.exact[record])
            narrow = (equal.count > _MOST_EQUAL) & (alike.count > 0)
            for found, here in ((equal, ~narrow), (alike, narrow)):
                few = here & (found.count <= _MOST_EQUAL)
                for start in np.unique(found.first[here & ~few]).tolist():
                    some = here & (found.first == start)
                    size = int(found.count[some][0])
                    if some.sum() * size <= _MOST_PAIRS:
                        few |= some
                    else:
                        several = found.order[start : start + size]
                        crowds.append(_Crowd(record[some], several, own))
                at, traversal = found.pairs(few)
                one = record[at]
                exact = records.exact[one] == own.exact[traversal]
                same = exact | self._translated(records, one, traversal, own)
                pairs.append((one, traversal, exact, same))
        record, traversal, exact, same = (np.concatenate(one) for one in zip(*pairs, strict=True))
        return record, traversal, exact, same, crowds


class _Crowd(NamedTuple):
    """Records, and the traversals that have their keys, as ``own`` has them of all traversals."""

    records: I64
    traversals: I64
    own: Keys


class _Equal:
    """Where some keys are among others: ``order[first : first + count]`` of each; shape (keys,)."""

    def __init__(self, among: U64, wanted: U64) -> None:
        self.order = np.argsort(among, kind="stable")
        among = among[self.order]
        self.first = np.searchsorted(among, wanted)
        self.count = np.searchsorted(among, wanted, side="right") - self.first

    def pairs(self, those: Mask) -> tuple[I64, I64]:
        """Numbers of ``those`` keys, each with all that are equal to it."""
        which = np.flatnonzero(those)
        first, count = self.first[which], self.count[which]
        step = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(which, count), self.order[np.repeat(first, count) + step]


class _Kinds(NamedTuple):
    """What the causes of records say of them; shape (records,) each. See `Cause`."""

    netfilter: Mask
    late: Mask
    routing: Mask
    receiving: Mask
    leaving: Mask
    discarding: Mask
    of_socket: Mask

    @classmethod
    def of(cls, records: Records, causes: Sequence[Cause]) -> _Kinds:
        """Those of some records."""
        told = (np.array([getattr(one, name) for one in causes], np.bool_) for name in cls._fields)
        return cls(*(one[records.cause] for one in told))


def _transports(packets: Packets, events: TraceEvents, last: I64) -> U64:
    """The first bytes of each transport header; nf_tables tells those behind a gap, too."""
    found = transports(packets)
    behind = np.flatnonzero(nftrace.knows_more(events, last))
    if len(behind):
        at = events.payload[last[behind]] + _GAP
        wide = np.lib.stride_tricks.sliding_window_view(events.buffer, 8)
        found[behind] = np.ascontiguousarray(wide[at]).view("<u8")[:, 0]
    return found


def _preferred(record: I64, fits: Mask, likely: Mask) -> Mask:
    """Of the pairs that fit those that are likely, where a record has any."""
    any_likely = np.zeros(int(record.max(initial=-1)) + 1, np.bool_)
    any_likely[record[fits & likely]] = True
    preferred: Mask = fits & (likely | ~any_likely[record])
    return preferred


def _who_is_alone(record: I64, traversal: I64) -> _Found:
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
    return _Found(found[0], found[1], list(_groups(record, traversal)))


def _groups(record: I64, traversal: I64) -> Iterator[tuple[I64, I64]]:
    """The records and traversals of pairs that are connected: one may be of another's, and so on."""
    if not len(record):
        return
    _, one = np.unique(record, return_inverse=True)
    distinct, other = np.unique(traversal, return_inverse=True)
    label, before = np.arange(len(distinct)), None
    while before is None or (label != before).any():
        before, lowest = label, np.full(int(one.max()) + 1, len(distinct))
        np.minimum.at(lowest, one, label[other])
        label = label.copy()
        np.minimum.at(label, other, lowest[one])
        label = label[label]
    order = np.argsort(label[other], kind="stable")
    edges = np.flatnonzero(np.diff(label[other][order])) + 1
    split = np.split(record[order], edges), np.split(traversal[order], edges)
    for some, of in zip(*split, strict=True):
        yield np.unique(some), np.unique(of)


def _by_count(records: Records, found: _Found, crowds: list[tuple[I64, I64, bool]]) -> _Found:
    """Settle the groups that have as many records as traversals, all for one cause: each was dropped."""
    sure, groups = [(found.record, found.traversal)], []
    for some, of in [*found.groups, *(crowd[:2] for crowd in crowds)]:
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
    decided: int,
    came_in: Mask,
) -> Ended:
    """The traversals with what the records tell of them; ``came_in``: whose last rule was at INPUT."""
    by_rules = np.array([one.verdict in _BY_RULES for one in assembly.outcomes])[assembly.outcome]
    certain = np.array([one.complete and one.doubt is None for one in assembly.outcomes])
    netfilter = np.array([one.netfilter for one in causes])[records.cause[found.record]]
    ruled = by_rules[found.traversal]
    differ = (ruled | netfilter) & (ruled != netfilter) & (found.traversal < decided)
    disagree = int((differ & certain[assembly.outcome[found.traversal]]).sum())
    made = _Made(assembly, causes, records)
    for some, of in found.groups:
        if not by_rules[of].any():
            doubtful = partial(_doubtful, dropped=len(some), of=len(of))
            first = np.full(len(of), some[np.argmin(records.time_ns[some])])
            made.replace(first, of, doubtful)
    made.replace(*found.copies, _copied)
    order = np.argsort(records.time_ns[found.record], kind="stable")  # the last one counts
    order = order[~ruled[order]]
    record, traversal = found.record[order], found.traversal[order]
    made.replace(record, traversal, _lost)
    empty = np.array([one.discarding for one in causes])[records.cause[record]] & came_in[traversal]
    made.replace(record[empty], traversal[empty], partial(_lost, text=NO_DATA))
    assembly = replace(assembly, outcome=made.outcome, outcomes=made.outcomes)
    return Ended(assembly, made.time_ns, disagree)


class _Made:
    """Outcomes that are made of those of an assembly."""

    def __init__(self, assembly: Assembly, causes: Sequence[Cause], records: Records) -> None:
        self._before = assembly
        self._causes = causes
        self._records = records
        self.outcome = assembly.outcome.copy()
        self.outcomes = [*assembly.outcomes]
        self.time_ns = np.zeros(len(assembly), np.int64)

    def replace(
        self, record: I64, traversal: I64, make: Callable[[Outcome, Cause], Outcome]
    ) -> None:
        """Give traversals another outcome, made of the one before and the cause of a record."""
        self.time_ns[traversal] = self._records.time_ns[record]
        pair = self._before.outcome[traversal] << 32 | self._records.cause[record]
        distinct, inverse = np.unique(pair, return_inverse=True)
        first = len(self.outcomes)
        self.outcomes += [
            make(self._before.outcomes[one >> 32], self._causes[one & 0xFFFFFFFF])
            for one in distinct.tolist()
        ]
        self.outcome[traversal] = first + inverse


def _lost(before: Outcome, cause: Cause, text: str = "") -> Outcome:
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
        death=cause.death(sure=True, text=text),
    )


def _copied(before: Outcome, cause: Cause) -> Outcome:
    """An outcome, with one of the packet's copies dropped."""
    return replace(before, death=cause.death(sure=False, text=f"{_NO_COPY}: {cause.words}"))


def _doubtful(before: Outcome, cause: Cause, dropped: int, of: int) -> Outcome:
    """An outcome, with the packet dropped perhaps."""
    doubt = f"the kernel dropped {dropped:,} of {counted(of, 'equal packet')}, perhaps this one"
    return replace(
        before,
        doubt="; ".join(filter(None, (before.doubt, doubt))),
        death=cause.death(sure=False),
    )
