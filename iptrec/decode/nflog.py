"""Columns out of a whole chunk of nfnetlink_log datagrams.

A message is a chain of attributes, so one message cannot be read in parallel; but the k-th
attributes of all messages can. Each round notes, for every message at once, where its next attribute
lies; when all messages are through, every field is one gather.

Layout: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/nfnetlink_log.h and
nfnetlink_conntrack.h. Headers of messages and attributes are in the recording host's byte order
(little endian), what attributes hold is big endian, and everything starts at a multiple of 4 bytes.

Recordings come from strangers: a length that lies costs its message and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from typing import Any

    import numpy.typing as npt

    I32 = npt.NDArray[np.int32]
    I64 = npt.NDArray[np.int64]
    U32 = npt.NDArray[np.uint32]
    Mask = npt.NDArray[np.bool_]
    Index = I64 | Mask | slice

AF_INET: Final = 2
AF_INET6: Final = 10
_ETH_P_IPV6: Final = 0x86DD
NLMSG_NOOP: Final = 1
NLMSG_DONE: Final = 3
NFULNL_MSG_PACKET: Final = 0x0400
_MESSAGE_HEADER: Final = 16  # struct nlmsghdr
_PACKET_HEADER: Final = 20  # and struct nfgenmsg
_ATTRIBUTE_HEADER: Final = 4  # struct nlattr
_LENGTH_MASK: Final = 0xFFFF
_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_PACKET_HDR, _MARK, _TIMESTAMP, _INDEV, _OUTDEV, _PHYSINDEV, _PHYSOUTDEV = range(1, 8)
_PAYLOAD, _PREFIX, _UID, _SEQ = range(9, 13)
_GID, _HWHEADER, _CT = 14, 16, 18
_CTA_ID: Final = 12

# The shortest sound length of each attribute, by type; the last entry stands for all higher types.
_LEAST: Final = np.full(20, _ATTRIBUTE_HEADER)
_LEAST[[_PACKET_HDR, _MARK, _INDEV, _OUTDEV, _PHYSINDEV, _PHYSOUTDEV, _UID, _SEQ, _GID]] = 8
_LEAST[_TIMESTAMP] = 20
_LEAST_CT: Final = np.full(14, _ATTRIBUTE_HEADER)
_LEAST_CT[_CTA_ID] = 8

# NF_LOG_PREFIXLEN (include/net/netfilter/nf_log.h), the NUL included
_PREFIX_WORDS: Final = 128 // 4
_PREFIX_LONGEST: Final = _ATTRIBUTE_HEADER + 4 * _PREFIX_WORDS
# _BYTES_BELOW[n] keeps the first n bytes of a row of _PREFIX_WORDS words.
_BYTES_BELOW: Final = (
    np.where(np.arange(128) < np.arange(129)[:, None], 0xFF, 0).astype(np.uint8).view("<u4")
)

# Powers of an odd number: a polynomial hash over pairs of words.
_HASH_FACTORS: Final = np.cumprod(np.full(_PREFIX_WORDS // 2 + 1, 0x9E3779B97F4A7C15, np.uint64))

# The kernel sends about 12 attributes a message, and TRACE one message a datagram.
_MOST_ATTRIBUTES: Final = 64
_MOST_MESSAGES: Final = 256
_BLOCK: Final = 6144  # messages; what they and their columns take stays in the processor's cache

# Zeros behind the data: an absent attribute is looked up there, and wide gathers may end there.
_PADDING: Final = bytes(256)


@dataclass(frozen=True, slots=True)
class NflogEvents:
    """The packets of a chunk, one row an NFULNL_MSG_PACKET, in order of arrival.

    All columns but ``buffer``, ``prefixes`` and ``undecoded`` have shape (n,). Offsets count bytes
    of ``buffer``, and offset + length never exceeds it.

    ``buffer`` is the chunk's bytes and 256 zeros, so that wide reads near the end stay inside; a
    datagram whose length is no multiple of 4 is followed by zeros up to the next one. Read-only.
    ``undecoded`` lists the datagrams (ascending) that held something else than well-formed packet
    messages, NLMSG_DONE and NLMSG_NOOP. What was well-formed in them is among the events.
    """

    buffer: npt.NDArray[np.uint8]
    datagram: I64  # the index in the chunk of the datagram that brought the event
    message: I64  # offset of the message's netlink header
    received_ns: I64  # of that datagram, as recorded
    stamp_ns: I64  # NFULA_TIMESTAMP since the epoch; 0: none, or after the year 2106
    seq: I64  # NFULA_SEQ; -1: none
    family: npt.NDArray[np.uint8]  # nfgen_family: AF_INET 2, AF_BRIDGE 7, AF_INET6 10
    hook: npt.NDArray[np.uint8]  # enum nf_inet_hooks; 255: none
    protocol: npt.NDArray[np.uint16]  # ethertype; 0: none
    prefix: I32  # index into prefixes; -1: none
    prefixes: list[bytes]  # distinct, without the trailing NUL
    mark: U32
    indev: U32  # interface index; 0: none
    outdev: U32
    physindev: U32
    physoutdev: U32
    payload: I64  # offset of the packet from its IP header on; -1: none
    payload_length: I32  # bytes captured
    link: I64  # offset of the link-layer header; -1: none
    link_length: I32
    uid: I64  # of the sending socket; -1: none
    gid: I64
    conntrack: I64  # CTA_ID; -1: none
    undecoded: I64

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.datagram)

    @property
    def ipv6(self) -> Mask:
        """Which packets are IPv6, bridged ones included; shape (n,)."""
        six: Mask = (self.family == AF_INET6) | (self.protocol == _ETH_P_IPV6)
        return six

    def packet(self, event: int) -> bytes:
        """An event's packet from the IP header on, as far as it was captured."""
        start = int(self.payload[event])
        end = start + int(self.payload_length[event])
        return self.buffer[start:end].tobytes() if start >= 0 else b""

    def take(self, index: Index) -> NflogEvents:
        """Return the events that ``index`` (numbers or mask) selects, sharing buffer and prefixes."""
        return replace(self, **{name: getattr(self, name)[index] for name in _PER_EVENT})


_PER_EVENT: Final = tuple(
    name
    for name in NflogEvents.__dataclass_fields__
    if name not in {"buffer", "prefixes", "undecoded"}
)


def decode(data: bytes, lengths: U32, received_ns: I64) -> NflogEvents:
    """Decode datagrams that lie back to back in ``data``.

    ``lengths`` (bytes) and ``received_ns`` have shape (n_datagrams,). Raises RecordingError when
    they do not describe ``data``; nothing inside the datagrams raises.
    """
    length = lengths.astype(np.int64)
    if len(length) != len(received_ns) or int(length.sum()) != len(data):
        raise RecordingError(
            f"chunk of datagrams: {len(length)} lengths, {len(received_ns)} receive times and "
            f"{len(data)} bytes do not belong together; the recording is damaged, record again"
        )
    buffer = np.frombuffer(_aligned(data, length) + _PADDING, np.uint8)
    words: U32 = buffer.view("<u4")
    start = np.zeros(len(length), np.int64)
    np.cumsum((length[:-1] + 3) >> 2, out=start[1:])

    datagram, message, size, undecoded = _messages(words, start, length)
    prefixes: dict[bytes, int] = {}
    blocks = []
    for first in range(0, max(len(message), 1), _BLOCK):
        block = slice(first, first + _BLOCK)
        at, sound = _packets(words, message[block], size[block])
        source, start_word = datagram[block], message[block]
        if not sound.all():
            undecoded[source[~sound]] = True
            at, source, start_word = at[:, sound], source[sound], start_word[sound]
        columns = _columns(buffer, start_word, at, prefixes)
        blocks.append({"datagram": source, **columns})

    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return NflogEvents(
        buffer=buffer,
        received_ns=received_ns[columns["datagram"]],
        prefixes=list(prefixes),
        undecoded=np.flatnonzero(undecoded),
        **columns,
    )


def _aligned(data: bytes, length: I64) -> bytes:
    """Let every datagram start at a multiple of 4, as the kernel's own all do."""
    if not (length & 3).any():
        return data
    ends = np.cumsum(length).tolist()
    starts = [0, *ends[:-1]]
    return b"".join(
        data[start:end] + bytes(start - end & 3) for start, end in zip(starts, ends, strict=True)
    )


def _messages(words: U32, start: I64, length: I64) -> tuple[I64, I64, I64, Mask]:
    """Find the packet messages of datagrams that start at words ``start`` and have ``length`` bytes.

    Returns for each message its datagram, first word and size in bytes, and for each datagram
    whether it holds anything unsound.
    """
    datagram, word, left = np.arange(len(start)), start, length
    broken = length == 0
    found = []
    for _ in range(_MOST_MESSAGES):
        if not len(datagram):
            break
        size = words.take(word).astype(np.int64)
        kind = words.take(word + 1) & _LENGTH_MASK
        whole = (size >= _MESSAGE_HEADER) & (size <= left)
        packet = whole & (kind == NFULNL_MSG_PACKET) & (size >= _PACKET_HEADER)
        done = kind == NLMSG_DONE
        broken[datagram[~(packet | (whole & (done | (kind == NLMSG_NOOP))))]] = True
        found.append((datagram[packet], word[packet], size[packet]))

        more = whole & ~done & (left > (size + 3 & ~3))
        step = (size[more] + 3) >> 2
        datagram, word, left = datagram[more], word[more] + step, left[more] - (step << 2)
    broken[datagram] = True
    return *_in_order(found), broken


def _in_order(rounds: list[tuple[I64, I64, I64]]) -> tuple[I64, I64, I64]:
    """Merge the first, second, ... messages of all datagrams into order of arrival."""
    if not rounds:
        return (np.empty(0, np.int64),) * 3
    if len(rounds) == 1:
        return rounds[0]
    datagram, word, size = (np.concatenate(parts) for parts in zip(*rounds, strict=True))
    order = np.argsort(word)
    return datagram[order], word[order], size[order]


def _packets(words: U32, message: I64, size: I64) -> tuple[I64, Mask]:
    """Find the attributes of packet messages, shape (types, n), and say which messages are sound.

    An attribute is given by the word of its header; the row of CTA_ID stands in for its NFULA_CT.
    """
    at, sound = _attributes(words, message + _PACKET_HEADER // 4, size - _PACKET_HEADER, _LEAST)
    sound &= (words.take(at[_PREFIX]) & _LENGTH_MASK) <= _PREFIX_LONGEST
    nested = np.flatnonzero(at[_CT] != _absent(words))
    if len(nested):
        outer = at[_CT, nested]
        inside = (words.take(outer) & _LENGTH_MASK).astype(np.int64) - _ATTRIBUTE_HEADER
        inner, inner_sound = _attributes(words, outer + 1, inside, _LEAST_CT)
        at[_CT, nested] = inner[_CTA_ID]
        sound[nested] &= inner_sound
    return at, sound


def _attributes(words: U32, word: I64, left: I64, least: I64) -> tuple[I64, Mask]:
    """Walk the attributes in ``left`` bytes from each ``word``, all in lockstep.

    Returns the word of the last attribute of each type, shape (len(least), n), and whether each
    chain of attributes is sound: every length at least ``least`` and within what is left.
    """
    n = len(word)
    at = np.full(len(least) * n, _absent(words))
    sound = np.ones(n, np.bool_)
    row = np.arange(n)
    for _ in range(_MOST_ATTRIBUTES):
        more = left > 0
        if not more.all():
            row, word, left = row[more], word[more], left[more]
        if not len(row):
            break
        header = words.take(word)
        kind = np.minimum((header >> 16) & _TYPE_MASK, len(least) - 1).astype(np.int64)
        size = (header & _LENGTH_MASK).astype(np.int64)
        fits = (size >= least.take(kind)) & (size <= left)
        if not fits.all():
            sound[row[~fits]] = False
            row, word, left, kind, size = (a[fits] for a in (row, word, left, kind, size))
        at[kind * n + row] = word
        step = (size + 3) >> 2
        word = word + step
        left = left - (step << 2)
    sound[row[left > 0]] = False
    return at.reshape(len(least), n), sound


def _absent(words: U32) -> int:
    """Return the word that stands for an attribute that is not there: the first of the padding."""
    return len(words) - len(_PADDING) // 4


def _columns(
    buffer: npt.NDArray[np.uint8], message: I64, at: I64, prefixes: dict[bytes, int]
) -> dict[str, npt.NDArray[Any]]:
    """Read the fields of sound messages; new prefixes get the next numbers in ``prefixes``."""
    words: U32 = buffer.view("<u4")
    big_endian: U32 = buffer.view(">u4")
    there = at != _absent(words)

    def number(kind: int, word: int = 1) -> U32:
        value: U32 = big_endian.take(at[kind] + word).astype(np.uint32)
        return value

    def or_none(kind: int, value: npt.NDArray[Any]) -> I64:
        return np.where(there[kind], value, np.int64(-1))

    def offset(kind: int) -> I64:
        return or_none(kind, (at[kind] + 1) << 2)

    def length(kind: int) -> I32:
        size: I32 = (words.take(at[kind]) & _LENGTH_MASK).astype(np.int32)
        return np.where(there[kind], size - np.int32(_ATTRIBUTE_HEADER), np.int32(0))

    header = number(_PACKET_HDR)
    prefix = np.full(len(message), -1, np.int32)
    prefixed = there[_PREFIX]
    prefix[prefixed] = _intern(
        buffer, offset(_PREFIX)[prefixed], length(_PREFIX)[prefixed], prefixes
    )
    return {
        "message": message << 2,
        "stamp_ns": _nanoseconds(*(number(_TIMESTAMP, word) for word in (1, 2, 3, 4))),
        "seq": or_none(_SEQ, number(_SEQ)),
        "family": buffer.take((message << 2) + _MESSAGE_HEADER),
        "hook": np.where(there[_PACKET_HDR], header >> 8, 255).astype(np.uint8),
        "protocol": (header >> 16).astype(np.uint16),
        "prefix": prefix,
        "mark": number(_MARK),
        "indev": number(_INDEV),
        "outdev": number(_OUTDEV),
        "physindev": number(_PHYSINDEV),
        "physoutdev": number(_PHYSOUTDEV),
        "payload": offset(_PAYLOAD),
        "payload_length": length(_PAYLOAD),
        "link": offset(_HWHEADER),
        "link_length": length(_HWHEADER),
        "uid": or_none(_UID, number(_UID)),
        "gid": or_none(_GID, number(_GID)),
        "conntrack": or_none(_CT, number(_CT)),
    }


def _nanoseconds(high_seconds: U32, seconds: U32, high_microseconds: U32, microseconds: U32) -> I64:
    """Join the two 64-bit numbers of NFULA_TIMESTAMP; 0 where one does not fit into its lower half."""
    time = seconds.astype(np.int64) * 1_000_000_000 + microseconds.astype(np.int64) * 1000
    time[(high_seconds | high_microseconds) != 0] = 0
    return time


def _intern(
    buffer: npt.NDArray[np.uint8],
    offset: I64,
    length: I32,
    prefixes: dict[bytes, int],
) -> I32:
    """Number equal prefixes equally; only one of each becomes a Python object.

    Hashes propose which are equal, all bytes decide: whatever its hash wrongly put beside another
    prefix is numbered on its own.
    """
    if not len(offset):
        return np.empty(0, np.int32)
    length = length - (buffer.take(offset + length - 1) == 0) * (length > 0)

    def numbers(rows: I64) -> list[int]:
        spans = zip(offset[rows].tolist(), length[rows].tolist(), strict=True)
        return [
            prefixes.setdefault(buffer[start : start + size].tobytes(), len(prefixes))
            for start, size in spans
        ]

    width = (int(length.max()) + 3) >> 2
    rows = np.zeros((len(offset), (width | 1) + 1), "<u4")  # the bytes, then the length
    np.bitwise_and(
        sliding_window_view(buffer.view("<u4"), width)[offset >> 2],
        _BYTES_BELOW[:, :width].take(length, axis=0),
        out=rows[:, :width],
    )
    rows[:, -1] = length
    hashes = rows.view(np.uint64) @ _HASH_FACTORS[: rows.shape[1] // 2]
    distinct, proposed = np.unique(hashes, return_inverse=True)
    representative = np.empty(len(distinct), np.int64)
    representative[proposed] = np.arange(len(offset))
    number = np.array(numbers(representative), np.int32)[proposed]

    whole = rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0]
    wrong = np.flatnonzero(whole != whole[representative[proposed]])
    number[wrong] = numbers(wrong)
    return number
