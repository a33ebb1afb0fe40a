"""The packets that records of drops may be of: by their bytes, by how far they came, and by time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode import nftrace
from iptrec.names import HOOKS
from iptrec.packets.drop_groups import NONE, Found, by_count, preferred, who_is_alone
from iptrec.packets.drop_records import GAP, Cause, Keys, Records, keys, transports
from iptrec.packets.identity import Packets, combined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.context.stacked import Stacked
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.assemble import Assembly

BY_RULES: Final = ("DROP", "REJECT")
SLACK_NS: Final = 1_000_000  # between the clocks of events and drops
LATE_NS: Final = 5_000_000_000
_PASSED: Final = ("ACCEPT", "UNKNOWN", "QUEUE")
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
_BEYOND: Final = (_INPUT, _FORWARD, _POSTROUTING)
_SENT: Final = (_OUTPUT, _POSTROUTING)
_GOING: Final = (_FORWARD, _POSTROUTING)
_TRANSLATED: Final = (_PREROUTING, _OUTPUT)  # where the destination is
# How much later than its last event was received a packet is dropped at most. Little interrupts what comes in.
_AT_ONCE_NS: Final = 20_000_000
_SENDING_NS: Final = 100_000_000
_QUEUED_NS: Final = 2_000_000_000
_MOST_EQUAL: Final = 16  # of which each is looked at
_MOST_PAIRS: Final = 1024  # of a crowd of equal ones
_MOST_KINDS: Final = 64  # of records of one crowd
_IN_COMMON: Final = ("cause", "device", "cloned")


class Candidates:
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
        self.since_ns = earliest_ns[last] - SLACK_NS
        self.until_ns = events.received_ns[last] + np.where(queued, _QUEUED_NS, patience)
        self.late_ns = events.received_ns[last] + LATE_NS
        self._hook = events.hook[last]
        self._device = events.outdev[last].astype(np.int64)
        self.came_in: Mask = self._hook == _INPUT
        self._going: Mask = np.isin(self._hook, _GOING)
        self._routed: Mask = ~np.isin(self._hook, _BEYOND) | self._sent
        by_rules = np.array([one.verdict in BY_RULES for one in outcomes])
        self._by_rules: Mask = by_rules[assembly.outcome]
        passed = np.array([one.verdict in _PASSED for one in outcomes])
        self._finished: Mask = self._by_rules | passed[assembly.outcome]

    def found(self, records: Records, causes: Sequence[Cause]) -> Found:
        """Find whose they are."""
        self._kinds = _Kinds.of(records, causes)
        record, traversal, exact, same, crowds = self._alike(records)
        fits = same & self._possible(records, record, traversal)
        for likely in self._likely(record, traversal):
            fits = preferred(record, fits, likely)
        # The last rule may have seen it before NAT, or not.
        fits = preferred(record, fits, exact)
        record, traversal = record[fits], traversal[fits]
        copied = self._of_copy(records, record, traversal)
        copied = np.isin(record, record[copied])
        alone = who_is_alone(record[~copied], traversal[~copied])
        parts = [part for one in crowds for part in self._parted(records, one)]
        found = by_count(records, alone, [part for part in parts if not part[2]])
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
        of_many = (records.many & kinds.of_socket | records.group & kinds.leaving)[record]
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
        pairs, crowds = [(NONE, NONE, NONE.astype(np.bool_), NONE.astype(np.bool_))], []
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
        at = events.payload[last[behind]] + GAP
        wide = np.lib.stride_tricks.sliding_window_view(events.buffer, 8)
        found[behind] = np.ascontiguousarray(wide[at]).view("<u8")[:, 0]
    return found
