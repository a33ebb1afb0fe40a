"""Which packets connection tracking may have refused behind their last rule.

Only the first packet of a connection is confirmed, behind all rules of INPUT or POSTROUTING, and only then can
it be refused (__nf_conntrack_confirm of net/netfilter/nf_conntrack_core.c). Counters tell how many were, and
never which. So it may be each that was there when they rose; but not one whose connection went on, or that was
looped back, nor any of which the kernel would have told that it dropped it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.packets.identity import WITH_PORTS, Packets, combined
from iptrec.packets.loops import CAME, LEFT, LOOP_NS, came_keys, left_keys
from iptrec.packets.outcome import is_tracked_otherwise, met_nat, refusal
from iptrec.packets.remade import Remade
from iptrec.rulesets.table_names import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.context.refusals import Refusal
    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.outcome import Outcome
    from iptrec.rulesets.resolver import Book

_NEW, _RELATED, _ESTABLISHED = 8, 4, 2  # NF_CT_STATE_BIT
_CONFIRMED: Final = 8  # IPS_CONFIRMED
_SLACK_NS: Final = 100_000_000  # between a packet's last rule and a look at the counters
# A packet that began this much later than what was read before cannot have raced with it.
RACE_NS: Final = 100_000_000
_ECHOES: Final = (0, 8, 128, 129)
_ICMP: Final = (1, 58)
_TCP, _SCTP = 6, 132
_UDP: Final = (17, 136)  # and UDP-Lite
_WORD: Final = np.uint64(0xFFFFFFFF)


class Refused:
    """Finds the packets of one namespace that may have been refused; see `Refusal`."""

    def __init__(self, refusals: Sequence[Refusal], book: Book) -> None:
        self._refusals = refusals
        self._book = book

    def doubted(
        self,
        events: TraceEvents,
        earliest_ns: I64,
        assembly: Assembly,
        untold_ns: I64 | None,
        raced_ns: int,
    ) -> Assembly:
        """The traversals, with the doubt of those that may have been.

        ``untold_ns``: when rules dropped packets of which nobody knows which (epoch); None: not all that were
        dropped are known.
        ``raced_ns``: what began before (epoch) may have raced with packets that were read before these.
        """
        if not self._refusals or not len(assembly):
            return assembly
        seen = _Seen.of(events, assembly, self._book)
        last = assembly.lasts()
        since_ns, until_ns = earliest_ns[last] - _SLACK_NS, events.received_ns[last] + _SLACK_NS
        counts = np.zeros(len(last), np.int64)
        for one in self._refusals:
            counts += one.many * ((one.since_ns <= until_ns) & (since_ns <= one.until_ns))
        suspect = seen.first & seen.accepted & (counts > 0)
        if untold_ns is not None:
            suspect &= _near(untold_ns, since_ns, until_ns)
        if not suspect.any():
            return assembly
        began_ns = earliest_ns[assembly.rows[assembly.first]]
        suspect &= ~(seen.goes_on(events) & (began_ns >= raced_ns)) & ~seen.looped(events)
        of, made = np.flatnonzero(suspect), Remade(assembly)
        made.replace(of, counts[of], partial(_doubtful, self._book))
        return made.assembly


def _near(times_ns: I64, since_ns: I64, until_ns: I64) -> Mask:
    """Whether any of some times is between two others; shape of those."""
    times_ns = np.sort(times_ns)
    found: Mask = np.searchsorted(times_ns, since_ns) < np.searchsorted(times_ns, until_ns, "right")
    return found


class _Seen(NamedTuple):
    """What was seen of traversals; all shape (n,).

    ``first``: it began a connection that was not confirmed then, or nothing tells. ``later``: it is of one that
    is known.
    """

    first: Mask
    accepted: Mask
    later: Mask
    begun: I64
    ended: I64

    @classmethod
    def of(cls, events: TraceEvents, assembly: Assembly, book: Book) -> _Seen:
        """Look at the traversals of a window."""
        rows, start = assembly.rows, assembly.first
        nat, accepted, usual, told = (
            np.array([judge(one) for one in assembly.outcomes], np.bool_)[assembly.outcome]
            for judge in (
                partial(_met_nat, book),
                _is_accepted,
                partial(_is_usual, book),
                partial(_tells_first, book),
            )
        )
        state, status = events.ct_state[rows], events.ct_status[rows]
        new = (status >= 0) & (state & (_NEW | _RELATED) > 0)
        established = np.logical_or.reduceat(state & _ESTABLISHED > 0, start)
        confirmed = np.logical_or.reduceat((status >= 0) & (status & _CONFIRMED > 0), start)
        first = (nat | np.logical_or.reduceat(new, start)) & ~confirmed
        # Those of known connections pass NAT's rules in legacy iptables, and meet none of them.
        silent = ~np.logical_or.reduceat(events.trace[rows] >= 0, start)
        later = usual & ~first & (established | confirmed | silent)
        first |= silent & ~told
        return cls(first, accepted, later, rows[start], assembly.lasts())

    def goes_on(self, events: TraceEvents) -> Mask:
        """Which began a connection of which more was seen later.

        One that several packets began tells of none: one was refused, perhaps, and another one was not.
        """
        begun, ended = (Packets.of(events, one) for one in (self.begun, self.ended))
        number = events.conntrack[self.ended] + 1
        same = number.astype(np.uint64), number.astype(np.uint64)
        onward = _onward_keys(begun)
        pairs = (same, (onward, onward), (_asking_keys(ended), _answering_keys(ended)))
        found = np.zeros(len(self.begun), np.bool_)
        for own, other in pairs:
            found |= self._last(own, other, self.first, self.later) > self.ended
        return found

    def looped(self, events: TraceEvents) -> Mask:
        """Which came back by the loopback interface, or as their host's own copy."""
        begun, ended = (Packets.of(events, one) for one in (self.begun, self.ended))
        key = begun.keys()
        left = left_keys(events, self.begun, self.ended, key, ended, ~self.accepted)
        came = came_keys(events, self.begun, key, begun)
        found = np.zeros(len(key), np.bool_)
        for one, other in zip(LEFT, CAME, strict=True):
            row = self._last(left[one], came[other], left[one] != 0, came[other] != 0)
            soon = events.received_ns[row] - events.received_ns[self.ended] <= LOOP_NS
            found |= (row > self.ended) & soon
        return found

    def _last(self, own: U64, others: U64, some: Mask, chosen: Mask) -> I64:
        """Where the last of the chosen ones with a key began that only one of some has; -1: none.

        0 is no key.
        """
        found = np.full(len(own), -1)
        values, number, count = np.unique(own[some], return_inverse=True, return_counts=True)
        there = np.flatnonzero(chosen & np.isin(others, values) & (others != 0))
        last = np.full(len(values), -1)
        np.maximum.at(last, np.searchsorted(values, others[there]), self.begun[there])
        found[some] = np.where(count == 1, last, -1)[number]
        return found


def _met_nat(book: Book, one: Outcome) -> bool:
    return met_nat(book, one.path)


def _tells_first(book: Book, one: Outcome) -> bool:
    """Whether there are chains of NAT, which every first packet of a connection passes."""
    grammar = book.grammars[one.path[-1]]
    passes = (each for route in grammar.routes for each in route)
    return any(plain(each.table) == "nat" and each not in grammar.silent for each in passes)


def _is_accepted(one: Outcome) -> bool:
    return one.verdict == "ACCEPT"


def _is_usual(book: Book, one: Outcome) -> bool:
    """Whether all of it was seen, and no rule had connection tracking see it in another way."""
    return one.complete and not is_tracked_otherwise(book, one.path)


def _onward_keys(packets: Packets) -> U64:
    """Keys of the connections of UDP, in their direction, as they are before NAT; 0 of others.

    Of TCP what meets no rule of NAT may be invalid, too.
    """
    keys, known, protocol = _connections(packets)
    return np.where(known & np.isin(protocol, _UDP), keys, np.uint64(0))


def _asking_keys(packets: Packets) -> U64:
    """Keys of what is answered: by the number that acknowledges it, if it is a SYN; 0 of others."""
    keys, known, protocol = _connections(packets)
    number = _number(packets, 4) + np.uint64(1) & _WORD
    return _where_answered(keys, known, protocol, number)


def _answering_keys(packets: Packets) -> U64:
    """Keys of what is answered, of its answers."""
    keys, known, protocol = _connections(packets, back=True)
    return _where_answered(keys, known, protocol, _number(packets, 8))


def _number(packets: Packets, at: int) -> U64:
    """Four bytes of each transport header, in network byte order."""
    word, _, _ = packets.transports(at)
    return (word & _WORD).astype(np.uint32).byteswap().astype(np.uint64)


def _where_answered(keys: U64, known: Mask, protocol: I64, number: U64) -> U64:
    tcp = protocol == _TCP
    keys = combined([keys, np.where(tcp, number, np.uint64(0))])
    return np.where(known & (protocol != _SCTP), keys, np.uint64(0))


def _connections(packets: Packets, *, back: bool = False) -> tuple[U64, Mask, I64]:
    """A key for the connection of each packet, in its direction or the other; which are known; protocols."""
    word, later, cut = packets.transports()
    protocol = packets.protocols()
    kind, number = word & np.uint64(0xFF), word >> np.uint64(32) & np.uint64(0xFFFF)
    echo = np.isin(protocol, _ICMP) & np.isin(kind, _ECHOES)
    known = (np.isin(protocol, WITH_PORTS) | echo) & ~later & ~cut
    keys = combined([packets.flow_keys(back=back), np.where(echo, number, np.uint64(0))])
    return keys, known, protocol


def _doubtful(book: Book, before: Outcome, many: int) -> Outcome:
    """An outcome, with the doubt that the packet is one of so many that were refused."""
    doubt = "; ".join(filter(None, (refusal(book, before.path, many), before.doubt)))
    return replace(before, doubt=doubt)
