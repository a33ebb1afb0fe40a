"""The packets that came in and of which no later hook tells, as far as a few events show.

Only a question to the kernel comes of it (`route_questions`), so one packet too many costs a moment. Events of
a packet come together: where the next packet's first event follows, it has gone no further, unless processors
take turns.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.kernel.netlink import NETFILTER_HEAD, attributes
from iptrec.kernel.questions import Question
from iptrec.names import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.kernel.batches import Batch
    from iptrec.names import I64, U8, U32

_PREROUTING, _OUTPUT = HOOKS.index("PREROUTING"), HOOKS.index("OUTPUT")
_LO: Final = 1  # its index, in every namespace

# Of nfnetlink_log: NFULA_PACKET_HDR is first and has the hook; the prefix is second and has a table.
_HOOK_AT, _PREFIX_AT, _TABLE_AT = 26, 32, 39
_TRACE, _RAW = b"TRACE: ", int.from_bytes(b"raw:", "little")
_FAMILY_AT: Final = 16
_NFULA_MARK, _NFULA_INDEV, _NFULA_PAYLOAD = 2, 4, 9

# Of nf_tables' traces: the family, the type, the id, the chain and the table are first.
_KIND_AT, _KIND = 4, 0x0A11
_ID_AT, _CHAIN_AT, _NAMES = 40, 44, 128
_NFTA_TABLE, _NFTA_CHAIN, _NFTA_VERDICT, _NFTA_NETWORK, _NFTA_TRANSPORT = 1, 2, 5, 8, 9
_NFTA_IIF, _NFTA_OIF, _NFTA_MARK, _NFTA_NFPROTO, _NFTA_POLICY = 10, 12, 14, 15, 16
_CODE: Final = 1  # NFTA_VERDICT_CODE
_DROP: Final = bytes(4)  # NF_DROP
_MOST_STEPS: Final = 64  # of a packet at a hook


def named(table: str, chain: str) -> bytes:
    """A chain as events of nf_tables name it; patterns of `of_nftrace`."""
    return _text(_NFTA_CHAIN, chain) + _text(_NFTA_TABLE, table)


def of_nflog(batch: Batch) -> Iterator[Question]:
    """Out of events of legacy iptables."""
    data, starts = np.frombuffer(batch.data, np.uint8), _starts(batch)
    hook = data.take(starts + _HOOK_AT, mode="clip")
    raw = _words(data, starts + _TABLE_AT) == _RAW
    begins = raw & ((hook == _PREROUTING) | (hook == _OUTPUT))
    last = np.append(begins[1:], True)
    whole = batch.lengths > _PREFIX_AT
    for row in np.flatnonzero((hook == _PREROUTING) & last & whole).tolist():
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
    data, starts = np.frombuffer(batch.data, np.uint8), _starts(batch)
    kinds = data.take(starts + _KIND_AT, mode="clip") | data.take(
        starts + _KIND_AT + 1, mode="clip"
    ).astype(np.uint16) << np.uint16(8)
    rows = np.flatnonzero((kinds == _KIND) & (batch.lengths >= _CHAIN_AT))
    if not len(rows):
        return
    ids = _words(data, starts[rows] + _ID_AT)
    cuts = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    runs = zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True)
    for begin, end in runs:
        following = b"" if end == len(rows) else _names(batch, starts, int(rows[end]))
        goes_on = end < len(rows) and not following.startswith(tuple(first))
        if goes_on or _names(batch, starts, int(rows[end - 1])).startswith(tuple(later)):
            continue
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


def _words(data: U8, at: I64) -> U32:
    """Four bytes at each place, little endian."""
    found: U32 = data.take(at[:, None] + np.arange(4), mode="clip").view("<u4")[:, 0]
    return found


def _starts(batch: Batch) -> I64:
    lengths = batch.lengths.astype(np.int64)
    found: I64 = np.cumsum(lengths) - lengths
    return found


def _read(event: bytes) -> dict[int, bytes]:
    return dict(attributes(event[NETFILTER_HEAD:]))


def _datagram(batch: Batch, starts: I64, row: int) -> bytes:
    start = int(starts[row])
    return batch.data[start : start + int(batch.lengths[row])]


def _names(batch: Batch, starts: I64, row: int) -> bytes:
    start = int(starts[row]) + _CHAIN_AT
    return batch.data[start : start + _NAMES]


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")


def _text(kind: int, text: str) -> bytes:
    """An attribute that is a name."""
    value = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
