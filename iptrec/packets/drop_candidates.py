"""The packets that records of drops may be of: by their bytes, by how far they came, and by time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.names import HOOKS
from iptrec.packets.drop_groups import NONE, Found, by_count, preferred, who_is_alone
from iptrec.packets.drop_records import Cause, Flags, Records, keys
from iptrec.packets.identity import combined
from iptrec.packets.udp_sums import UNKNOWN, Summed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.drop_ahead import Ahead
    from iptrec.packets.drop_copies import Copies

BY_RULES: Final = ("DROP", "REJECT")
_PASSED: Final = ("ACCEPT", "UNKNOWN", "QUEUE")
_INPUT, _FORWARD, _OUTPUT, _POSTROUTING = map(HOOKS.index, HOOKS[1:])
_BEYOND: Final = (_INPUT, _FORWARD, _POSTROUTING)
_SENT: Final = (_OUTPUT, _POSTROUTING)
_GOING: Final = (_FORWARD, _POSTROUTING)  # where it is known by which interface a packet leaves
SLACK_NS: Final = 1_000_000  # between the clocks of events and drops
# How much later than its last event was received a packet is dropped at most. Little interrupts what comes in.
_AT_ONCE_NS: Final = 20_000_000
_SENDING_NS: Final = 100_000_000
_QUEUED_NS: Final = 2_000_000_000
LATE_NS: Final = 5_000_000_000
_EVER: Final = int(np.iinfo(np.int64).max)
_MOST_EQUAL: Final = 16  # of which each is looked at
_MOST_PAIRS: Final = 1 << 20  # of the records and traversals of one group


class _Equals(NamedTuple):
    """Pairs of records and traversals with equal keys, and the places of crowds in both.

    ``exact``: of each traversal, see `keys`.
    """

    record: I64
    traversal: I64
    exact: U64
    many: list[tuple[I64, I64]]


class Candidates:
    """Traversals of a window, as those that records may be of.

    ``since_ns``, ``until_ns``, ``late_ns``: between which times each can have been dropped, at once or late.
    """

    def __init__(
        self, events: TraceEvents, earliest_ns: I64, assembly: Assembly, copies: Copies
    ) -> None:
        last, outcomes = assembly.lasts(), assembly.outcomes
        self._copies = copies
        self._packets = Summed.of(events, last)
        self._nat_sum = self._packets.nat_sums()
        _, self._end = self._packets.end_keys()
        self._sent = np.isin(events.hook[assembly.rows[assembly.first]], _SENT)
        queued = np.array([one.queued for one in outcomes])[assembly.outcome]
        patience = np.where(self._sent, _SENDING_NS, _AT_ONCE_NS)
        self.since_ns = earliest_ns[last] - SLACK_NS
        self.until_ns = events.received_ns[last] + np.where(queued, _QUEUED_NS, patience)
        self.late_ns = events.received_ns[last] + LATE_NS
        self._read_ns = events.received_ns[last].max()
        self._keys: dict[int, tuple[U64, U64]] = {}
        self._came_in: Mask = events.hook[last] == _INPUT
        beyond = np.isin(events.hook[last], _BEYOND)
        self._onward: Mask = beyond & ~self._came_in
        self._routed_to: Mask = beyond  # NAT changes its source alone from there on
        self._going: Mask = np.isin(events.hook[last], _GOING)
        port, device = events.physoutdev[last], events.outdev[last]
        self._out = np.where(port > 0, port, device).astype(np.int64)
        first = assembly.rows[assembly.first]
        self._in = (events.indev[first], events.physindev[first], events.indev[last])
        origin = assembly.origins()
        self._forked: Mask = origin >= 0  # of those of which copies are told
        self._forked[origin[self._forked]] = True
        self._routed: Mask = ~beyond | self._sent
        by_rules = np.array([one.verdict in BY_RULES for one in outcomes])
        self._by_rules: Mask = by_rules[assembly.outcome]
        passed = np.array([one.verdict in _PASSED for one in outcomes])
        self._passed: Mask = passed[assembly.outcome]

    def looked_at(self, ahead: Ahead, causes: Sequence[Cause]) -> Records:
        """The records of the time of the traversals; and later ones, where they count as many."""
        near = ahead.until(max(int(self.until_ns.max()), int(self._read_ns) + _SENDING_NS))
        self._flags = Flags.of(causes, near)
        if len(near.time_ns) == len(ahead) or not any(one.many for one in self._equals(near)):
            return near
        every = ahead.until(_EVER)
        self._flags = Flags.of(causes, every)
        return every

    def found(self, records: Records) -> Found:
        """Find whose they are; ``records``: those that `looked_at` gave."""
        flags = self._flags
        record, traversal, exact, crowds = self._alike(records)
        fits = self._there(records, record, traversal)
        fits &= (self._by_rules | self._passed)[traversal]
        fits = preferred(record, fits, ~self._unlike(records, record, traversal))
        # What rules drop is netfilter's; where there is no such packet the kernel and the rules disagree.
        fits = preferred(record, fits, flags.netfilter[record] == self._by_rules[traversal])
        fits &= self._can_be(records, record, traversal)
        for likely in self._likely(records, record, traversal):
            fits = preferred(record, fits, likely)
        # The last rule may have seen it before NAT, or not.
        fits = preferred(record, fits, exact)
        # It goes to where rules saw it go behind its routing: only its source may be another one by then.
        to_it = records.end[record] == self._end[traversal]
        fits = preferred(record, fits, to_it | ~self._routed_to[traversal])
        found = who_is_alone(record[fits], traversal[fits])
        parted = [
            (part, self._left(ways, found, records, part))
            for some, *ways in crowds
            for part in flags.parts(some, records)
        ]
        return by_count(records, found, parted)

    def copied(self, records: Records, found: Found) -> Mask:
        """Of which of the found ones the kernel may have dropped a copy, while another one went on."""
        record, traversal = found.record, found.traversal
        below, several = self._leaves(records, record, traversal)
        going = self._going[traversal]
        told = self._told(records, record, traversal) & going
        elsewhere = told & (~below | (several & ~records.alone[record]))
        passing = ~self._sent[traversal] & ~told
        single = ~self._sent[traversal] & ~self._forked[traversal]
        _, port, _ = self._in
        among = self._copies.among(
            records, self._flags, record, passing, single, port[traversal] > 0
        )
        copied: Mask = elsewhere | among
        return copied | (records.any_packet[record] & self._copies.several(self._out[traversal]))

    def single(self, records: Records, some: I64, of: I64) -> bool:
        """Whether some records can only be of some traversals: none of a copy, nor of another packet."""
        if len(some) * len(of) > _MOST_PAIRS or records.elsewhere[some].any():
            return False
        every = Found(np.repeat(some, len(of)), np.tile(of, len(some)), [])
        return not self.copied(records, every).any()

    def _unlike(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Which pairs are of two packets whatever NAT did, by the checksums of both."""
        own, told = self._nat_sum[traversal], records.nat_sum[record]
        unlike: Mask = (own != told) & (own != UNKNOWN) & (told != UNKNOWN)
        return unlike

    def _can_be(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Whether records can be of traversals, by where these began, and how far they came."""
        flags, ruled, onward = self._flags, self._by_rules[traversal], self._onward[traversal]
        routed: Mask = ~flags.routing[record] | self._routed[traversal] | ruled
        routed &= ~flags.receiving[record] | ~onward | ruled
        # A copy by TEE is sent from here, and the interface is told that the packet came in by.
        begun = records.sent[record] == self._sent[traversal]
        below, _ = self._leaves(records, record, traversal)
        sent_on = (self._told(records, record, traversal) & below) | (
            flags.netfilter[record] & ruled
        )
        can: Mask = routed & (begun | (self._sent[traversal] & sent_on))
        return can & (~records.any_packet[record] | self._came(records, record, traversal))

    def _came(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Whether records of any packets can be of traversals: by their interface, and how far these came."""
        same = [one[traversal].astype(np.int64) == records.iif[record] for one in self._in]
        came: Mask = self._sent[traversal] | np.logical_or.reduce(same)
        stayed = self._came_in[traversal] & ~self._by_rules[traversal]
        return came & (self._flags.receiving[record] | ~stayed)

    def _likely(self, records: Records, record: I64, traversal: I64) -> Iterator[Mask]:
        """Which pairs are to be preferred, in turn: by where it was dropped, and how far the packet came."""
        flags = self._flags
        yield ~(flags.discarding[record] & self._onward[traversal])
        # Of what a bridge or IP copied the host's own copy came to INPUT, if a chain there tells of it.
        yield flags.receiving[record] == self._came_in[traversal]
        below, _ = self._leaves(records, record, traversal)
        yield below | ~(self._told(records, record, traversal) & self._going[traversal])

    def _told(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Whether it is known at which device it was dropped, and by which it was to leave."""
        both = (records.device[record] > 0) & (self._out[traversal] > 0)
        told: Mask = both & self._flags.leaving[record]
        return told

    def _leaves(self, records: Records, record: I64, traversal: I64) -> tuple[Mask, Mask]:
        """See `Copies.leaves`."""
        return self._copies.leaves(records.device[record], self._out[traversal])

    def _there(self, records: Records, record: I64, traversal: I64) -> Mask:
        """Whether records are of times when the packets may have been dropped."""
        time_ns = records.time_ns[record]
        until_ns = np.where(
            self._flags.late[record], self.late_ns[traversal], self.until_ns[traversal]
        )
        fits: Mask = (self.since_ns[traversal] <= time_ns) & (time_ns <= until_ns)
        return fits

    def _left(self, ways: Sequence[I64], found: Found, records: Records, some: I64) -> I64:
        """Which of a crowd some records, all of one kind, may be of: of the first of ``ways`` that has any."""
        left = NONE
        for of in ways:
            first = np.full(len(of), some[0])
            kept = self._by_rules[of] == self._flags.netfilter[first]
            kept &= self._can_be(records, first, of) & ~np.isin(of, found.traversal)
            for likely in self._likely(records, first, of):
                kept &= likely | ~(kept & likely).any()
            late = bool(self._flags.late[some[0]])
            left = self._near(of[kept], records.time_ns[some], late=late)
            if len(left):
                break
        return left

    def _near(self, of: I64, time_ns: I64, *, late: bool) -> I64:
        """Those that were there at some of the times."""
        until_ns = self.late_ns if late else self.until_ns
        near: Mask = (self.since_ns[of] <= time_ns.max()) & (until_ns[of] >= time_ns.min())
        near &= (self._by_rules | self._passed)[of]
        found: I64 = of[near]
        return found

    def _alike(self, records: Records) -> tuple[I64, I64, Mask, list[tuple[I64, ...]]]:
        """Pairs of records and traversals with equal keys, and which are equal in what NAT rewrites, too.

        And crowds, too many to look at each pair: see `_crowded`.
        """
        pairs: list[tuple[I64, I64, Mask]] = [(NONE, NONE, np.zeros(0, np.bool_))]
        crowds: list[tuple[I64, ...]] = []
        for equal in self._equals(records):
            one, of, exact = equal.record, equal.traversal, equal.exact
            pairs.append((one, of, records.exact[one] == exact[of]))
            for some, others in equal.many:
                one, of, left = self._by_sums(records, some, others)
                pairs.append((one, of, records.exact[one] == exact[of]))
                for crowd in left:
                    some_pairs, some_crowds = self._crowded(records, *crowd, exact)
                    pairs += some_pairs
                    crowds += some_crowds
        record, of, same = (np.concatenate(some) for some in zip(*pairs, strict=True))
        return record, of, same, [one for one in crowds if len(one[0])]

    def _equals(self, records: Records) -> list[_Equals]:
        """Which have equal keys, of records that were captured alike."""
        # Those of which it is not known whether they are of packets that were sent here.
        flags = self._flags
        either = ~records.sent & (flags.leaving | flags.netfilter)
        kind = records.cut << 1 | either
        found = []
        for number in np.flatnonzero(np.bincount(kind)).tolist():
            record = np.flatnonzero(kind == number)
            if number not in self._keys:
                key, exact = keys(self._packets, number >> 1)
                self._keys[number] = (key if number & 1 else _directed(key, self._sent)), exact
            key, exact = self._keys[number]
            told = records.key[record]
            if not number & 1:
                told = _directed(told, records.sent[record])
            one, of, many = _equal(told, key)
            crowds = [(record[some], others) for some, others in many]
            found.append(_Equals(record[one], of, exact, crowds))
        return found

    def _by_sums(
        self, records: Records, some: I64, others: I64
    ) -> tuple[I64, I64, list[tuple[I64, I64]]]:
        """Pairs of records and traversals with equal sums, and smaller crowds; where all sums are known."""
        told, own = records.nat_sum[some], self._nat_sum[others]
        if (told == UNKNOWN).any() or (own == UNKNOWN).any():
            return NONE, NONE, [(some, others)]
        one, of, many = _equal(told, own)
        crowds = [(some[every], others[those]) for every, those in many]
        left = np.setdiff1d(some, np.concatenate([some[one], *(every for every, _ in crowds)]))
        return some[one], others[of], [*crowds, (left, others)]

    def _crowded(
        self, records: Records, some: I64, others: I64, exact: U64
    ) -> tuple[list[tuple[I64, I64, Mask]], list[tuple[I64, ...]]]:
        """Pairs of a crowd that are equal in what NAT rewrites, or in where they go, where that is known.

        And crowds: records, traversals that are equal so, if any, and those that may have been dropped before
        NAT had rewritten them where the last rule saw it.
        """
        pairs: list[tuple[I64, I64, Mask]] = []
        crowds: list[tuple[I64, ...]] = []
        ways = [(records.exact, exact)]
        if self._routed_to[others].all():
            ways.append((records.end, self._end))
        for told, own in ways:
            one, of, many = _equal(told[some], own[others])
            one, of = some[one], others[of]
            fits = self._there(records, one, of) & self._can_be(records, one, of)
            one, of = one[fits], of[fits]
            pairs.append((one, of, np.ones(len(of), np.bool_)))
            found = [(some[every], others[those], others) for every, those in many]
            crowds += found
            some = np.setdiff1d(some, np.concatenate([one, *(every for every, *_ in found)]))
        return pairs, [*crowds, (some, others)]


def _directed(key: U64, sent: Mask) -> U64:
    """Keys of packets that were sent here, and others of those that came in."""
    return combined([key, sent.astype(np.uint64)])


def _equal(wanted: I64 | U64, own: I64 | U64) -> tuple[I64, I64, list[tuple[I64, I64]]]:
    """Which numbers are equal, as pairs of places in both; and the places where too many are."""
    order = np.argsort(own, kind="stable")
    first = np.searchsorted(own[order], wanted)
    count = np.searchsorted(own[order], wanted, side="right") - first
    many = count > _MOST_EQUAL
    crowds = []
    for start in np.flatnonzero(np.bincount(first[many])).tolist():
        some = np.flatnonzero(many & (first == start))
        crowds.append((some, order[start : start + int(count[some[0]])]))
    found, first, count = np.flatnonzero(~many), first[~many], count[~many]
    step = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(found, count), order[np.repeat(first, count) + step], crowds
