"""The packets that came in and of which no later hook tells, as far as a few events show.

Only a question to the kernel comes of it (`route_questions`), so one packet too many costs a moment. Events of
a packet come together: where the next packet's first event follows, it has gone no further, unless processors
take turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.kernel.netlink import NETFILTER_HEAD, attributes, packed
from iptrec.kernel.questions import Question
from iptrec.names import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.kernel.batches import Batch
    from iptrec.names import I64, U32, Mask

_PREROUTING, _OUTPUT = HOOKS.index("PREROUTING"), HOOKS.index("OUTPUT")
_LO: Final = 1  # its index, in every namespace

# Of nfnetlink_log: NFULA_PACKET_HDR is first and has the hook; the prefix is second and has a table.
_HOOK_AT, _PREFIX_AT, _TABLE_AT = 26, 32, 39
_TRACE, _RAW = b"TRACE: ", int.from_bytes(b"raw:", "little")
_FAMILY_AT: Final = 16
_NFULA_MARK, _NFULA_INDEV, _NFULA_PAYLOAD = 2, 4, 9

# Of nf_tables' traces: the family, the type, the id, the chain and the table are first.
_KIND_AT, _KIND = 4, 0x0A11
_ID_AT, _CHAIN_AT = 40, 44
_NAMES: Final = 4 * np.arange(16)  # words that are compared of them
_NFTA_TABLE, _NFTA_CHAIN, _NFTA_VERDICT, _NFTA_NETWORK, _NFTA_TRANSPORT = 1, 2, 5, 8, 9
_NFTA_IIF, _NFTA_OIF, _NFTA_MARK, _NFTA_NFPROTO, _NFTA_POLICY = 10, 12, 14, 15, 16
_CODE: Final = 1  # NFTA_VERDICT_CODE
_DROP: Final = bytes(4)  # NF_DROP
_MOST_STEPS: Final = 64  # of a packet at a hook


def named(table: str, chain: str) -> bytes:
    """A chain as events of nf_tables name it; patterns of `of_nftrace`."""
    names = (_NFTA_CHAIN, chain), (_NFTA_TABLE, table)
    return packed((kind, name.encode() + b"\0") for kind, name in names)


def of_nflog(batch: Batch) -> Iterator[Question]:
    """Out of events of legacy iptables."""
    words, starts = _words(batch.data), _starts(batch)
    hook = _at(words, starts + _HOOK_AT) & 255
    raw = _at(words, starts + _TABLE_AT) == _RAW
    begins = raw & ((hook == _PREROUTING) | (hook == _OUTPUT))
    last = (hook == _PREROUTING) & np.append(begins[1:], True) & (batch.lengths > _PREFIX_AT)
    for row in np.flatnonzero(last).tolist():
        datagram = _datagram(batch, starts, row)
        if not datagram.startswith(_TRACE, _PREFIX_AT):
            continue
        event = _read(datagram)
        if raw[row] and row + 1 < len(starts):
            following = _read(_datagram(batch, starts, row + 1))
            if event.get(_NFULA_PAYLOAD) == following.get(_NFULA_PAYLOAD):
                continue  # the same packet at two rules of raw
        mark, iif = (_number(event.get(one)) for one in (_NFULA_MARK, _NFULA_INDEV))
        if iif not in (0, _LO):
            payload = event.get(_NFULA_PAYLOAD, b"")
            yield from Question.about(datagram[_FAMILY_AT], iif, mark, payload)


def of_nftrace(batch: Batch, first: Sequence[bytes], later: Sequence[bytes]) -> Iterator[Question]:
    """Out of events of nf_tables.

    ``first``: the chains that packets come to first, ``later``: chains behind PREROUTING, see `named`.
    """
    words, starts = _words(batch.data), _starts(batch)
    rows = np.flatnonzero(
        (_at(words, starts + _KIND_AT) & 0xFFFF == _KIND) & (batch.lengths >= _CHAIN_AT)
    )
    if not len(rows):
        return
    ids = _at(words, starts[rows] + _ID_AT)
    begins = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))  # each packet's first event
    ends = np.append(begins[1:], len(rows))
    fresh = np.append(_named(words, starts[rows[begins[1:]]], first), True)
    ends, begins = ends[fresh], begins[fresh]
    gone = ~_named(words, starts[rows[ends - 1]], later)
    for begin, end in zip(begins[gone].tolist(), ends[gone].tolist(), strict=True):
        some = rows[max(begin, end - _MOST_STEPS) : end].tolist()
        yield from _of_pass([_datagram(batch, starts, row) for row in some], tuple(later))


def _of_pass(events: Sequence[bytes], later: tuple[bytes, ...]) -> Iterator[Question]:
    """Out of one packet's, of which the first in each base chain has the packet."""
    end = _read(events[-1])
    verdict = dict(attributes(end.get(_NFTA_VERDICT, b""))).get(_CODE)
    if _DROP in (verdict, end.get(_NFTA_POLICY)):
        return
    for event in reversed(events):
        found = _read(event)
        if _NFTA_NETWORK in found:
            iif = _number(found.get(_NFTA_IIF))
            if (
                iif not in (0, _LO)
                and _NFTA_OIF not in found
                and not event.startswith(later, _CHAIN_AT)
            ):
                yield from Question.about(
                    _number(found.get(_NFTA_NFPROTO)),
                    iif,
                    _number(end.get(_NFTA_MARK)),
                    found[_NFTA_NETWORK],
                    found.get(_NFTA_TRANSPORT, b""),
                )
            return


def _words(data: bytes) -> U32:
    """The four bytes at each offset, little endian; the last ones are those of 0."""
    padded = data + bytes(4)
    return np.ndarray((len(data) + 1,), "<u4", padded, strides=(1,))


def _at(words: U32, offsets: I64) -> U32:
    """Those at some offsets, which may be behind the end."""
    return words[np.minimum(offsets, len(words) - 1)]


def _starts(batch: Batch) -> I64:
    lengths = batch.lengths.astype(np.int64)
    found: I64 = np.cumsum(lengths) - lengths
    return found


def _read(event: bytes) -> dict[int, bytes]:
    return dict(attributes(event[NETFILTER_HEAD:]))


def _datagram(batch: Batch, starts: I64, row: int) -> bytes:
    start = int(starts[row])
    return batch.data[start : start + int(batch.lengths[row])]


def _named(words: U32, starts: I64, chains: Sequence[bytes]) -> Mask:
    """Which of some events name one of some chains, as far as its pattern is compared."""
    places = (starts + _CHAIN_AT)[:, None] + _NAMES
    told = _at(words, places)
    found = np.zeros(len(starts), np.bool_)
    for chain in chains:
        wanted = np.frombuffer(chain, "<u4")[: len(_NAMES)]
        found |= (told[:, : len(wanted)] == wanted).all(axis=1)
    return found


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")
