"""Which rulesets of nf_tables traces met: between them are the numbers that tell it.

The kernel tells the number of each new ruleset (NFT_MSG_NEWGEN) when it has been in force for a moment. So the
number of the old one, which the kernel is asked for, is put once more before the first traces that may have met
the new one; and the new one's before those of which that is certain, where `switches` tells. By the sequence
number of the question these are known among those that the kernel tells unasked.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.kernel import netlink
from iptrec.kernel.batches import NO_RULESET, Batch, nothing_noted
from iptrec.kernel.nft import transactions
from iptrec.names import ASKED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.kernel.nft.switches import Switches
    from iptrec.names import U8

NEWGEN: Final = transactions.SUBSYSTEM | transactions.NEW_GENERATION
_GETGEN: Final = transactions.SUBSYSTEM | transactions.GET_GENERATION
_NUMBER: Final = 1  # NFTA_GEN_ID
_LARGEST: Final = 56  # with the name of a program, of 15 bytes; a trace is longer
_QUESTION: Final = netlink.message(
    _GETGEN, netlink.REQUEST, netlink.netfilter_body(0), sequence=ASKED
)


class Numbers:
    """Puts numbers among the traces of a socket.

    While the kernel answers the number that was told of last, all that was received met that ruleset or an
    older one. ``switches``: of the socket, where no tap notes the rulesets (`batches.NOTE`); without either
    that answer is put before all that came behind it.
    """

    def __init__(self) -> None:
        self.switches: Switches | None = None
        self._socket = netlink.connected()
        self._socket.setblocking(False)  # it answers at once
        self._answer = self._ask()  # the last one that is not among the traces yet
        self._number = number(self._answer)
        self._ahead = False  # it was answered, and is not told yet
        self._due = True
        self._received = self._told = 0  # datagrams, and numbers among them
        self._bit = NO_RULESET  # of the ruleset that was told of last

    def close(self) -> None:
        """Close its socket."""
        self._socket.close()

    def begin(self) -> None:
        """Tell the number before the next events, whatever they are."""
        self._due = True

    def among(self, batch: Batch) -> Batch:
        """The batch with numbers put in."""
        told, size = _numbers(batch), len(batch.lengths)
        bits = None if batch.notes is None else batch.notes["ruleset"]
        answer = self._ask()
        put = [(0, self._answer)] if self._due else []
        self._due = False
        start = 0
        for index, datagram in told:
            if number(datagram) != self._number:
                first, last = self._between(start, index, bits)
                put += [(first, self._answer)] if first > start or not start else []
                put += [(last, datagram)] if last < index else []
            self._number, self._answer, self._ahead = number(datagram), datagram, False
            self._told, start = self._told + 1, index + 1
            self._bit = NO_RULESET if bits is None else int(bits[index])
        if number(answer) == self._number:
            self._answer = answer
        else:
            put += self._untold(start, size, answer, bits)
        self._received += size
        put = [(index, _as_asked(one)) for index, one in dict.fromkeys(put) if one]
        return replace(_with(batch, put), beside=len(told) + len(put)) if told or put else batch

    def in_the_end(self, *, noted: bool) -> Batch | None:
        """The number that holds when nothing comes any more: no event before it met a newer one.

        ``noted``: whether what came before it has notes.
        """
        answer = self._ask()
        if not answer:
            return None
        lengths = np.array([len(answer)], np.uint32)
        now, notes = time.time_ns(), nothing_noted(1) if noted else None
        if notes is not None:
            notes["time"] = now
        return Batch(now, lengths, answer, lost=0, truncated=0, beside=1, notes=notes)

    def _untold(
        self, start: int, end: int, answer: bytes, bits: U8 | None
    ) -> list[tuple[int, bytes]]:
        """What is put from a datagram on where the kernel answers another number than it told.

        Nothing as long as no datagram was told under that ruleset.
        """
        first, last = self._between(start, end, bits)
        if first == end:
            return []
        put = [(first, self._answer)]
        self._answer = b""
        if last < end and number(answer) == self._number + 1:
            put.append((last, answer))
            self._number, self._answer, self._ahead = number(answer), answer, True
            self._bit = self._bit if self._bit == NO_RULESET else 1 - self._bit
        return put

    def _between(self, start: int, end: int, bits: U8 | None) -> tuple[int, int]:
        """Between which datagrams of a batch the next ruleset came into force; ``end``: not before.

        ``bits``: of the rulesets that a tap noted.
        """
        if bits is not None and self._bit != NO_RULESET:
            some = bits[start:end]
            after, before = np.flatnonzero(some != self._bit), np.flatnonzero(some != 1 - self._bit)
            if not len(after):
                return end, end
            return start + int(after[0]), start + int(before[-1]) + 1 if len(before) else start
        if self.switches is None or self._ahead:
            return start, end
        found = self.switches.after(self._told)
        if found is None:
            return end, end
        first, last = (min(max(one - self._received, start), end) for one in found)
        return first, last

    def _ask(self) -> bytes:
        try:
            self._socket.send(_QUESTION)
            answer = self._socket.recv(netlink.LARGEST)
        except OSError:
            return b""
        return answer if next(netlink.messages(answer)).kind == NEWGEN else b""


def number(datagram: bytes) -> int:
    """The number that a message tells, 0 where it tells none."""
    told = netlink.attribute(memoryview(datagram), _NUMBER)
    return int.from_bytes(told or b"")


def _as_asked(datagram: bytes) -> bytes:
    """What the kernel told unasked, to be put where it did not tell it yet."""
    told = next(netlink.messages(datagram))
    return netlink.message(told.kind, told.flags, told.body, sequence=ASKED)


def _numbers(batch: Batch) -> list[tuple[int, bytes]]:
    """The datagrams of a batch that tell a number, by their indices."""
    short = np.flatnonzero(batch.lengths <= _LARGEST)
    if not len(short):
        return []
    ends = np.cumsum(batch.lengths, dtype=np.int64)[short]
    starts = ends - batch.lengths[short]
    spans = zip(short.tolist(), starts.tolist(), ends.tolist(), strict=True)
    found = [(index, batch.data[i:j]) for index, i, j in spans]
    return [one for one in found if next(netlink.messages(one[1])).kind == NEWGEN]


def _with(batch: Batch, put: Sequence[tuple[int, bytes]]) -> Batch:
    """A batch with datagrams put in, each before the one of an index."""
    if not put:
        return batch
    starts = np.concatenate([[0], np.cumsum(batch.lengths, dtype=np.int64)]).tolist()
    put = sorted(put, key=lambda one: one[0])
    cuts = [0, *(starts[index] for index, _ in put), starts[-1]]
    pieces = [batch.data[i:j] for i, j in itertools.pairwise(cuts)]
    data = b"".join(
        b"".join(pair) for pair in zip(pieces, [*(one for _, one in put), b""], strict=True)
    )
    lengths = np.insert(
        batch.lengths, [index for index, _ in put], [len(one) for _, one in put]
    ).astype(np.uint32)
    notes = batch.notes
    if notes is not None:  # as of the one that it is put before
        neighbours = [notes[min(index, len(notes) - 1)] for index, _ in put]
        notes = np.insert(notes, [index for index, _ in put], neighbours)
    return replace(batch, lengths=lengths, data=data, notes=notes)
