"""Netlink messages of a whole chunk walked at once: where each attribute lies, and which bytes are equal.

A message is a chain of attributes, so one message cannot be read in parallel; but the k-th
attributes of all messages can. Each round notes, for every message at once, where its next attribute
lies; when all messages are through, every field is one gather.

Layout: include/uapi/linux/netlink.h. Headers of messages and attributes are in the recording host's byte
order (little endian), and everything starts at a multiple of 4 bytes; places are counted in words of 4.

Recordings come from strangers: a length that lies costs its message and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode.headers import spans
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from iptrec.names import I32, I64, U8, U32, Mask


NLMSG_NOOP: Final = 1
NLMSG_DONE: Final = 3
MESSAGE_HEADER: Final = 16  # struct nlmsghdr
FAMILY_HEADER: Final = 20  # and struct nfgenmsg
ATTRIBUTE_HEADER: Final = 4  # struct nlattr
LENGTH_MASK: Final = 0xFFFF
TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

# Zeros behind the data: an absent attribute is looked up there, and wide gathers may end there.
PADDING: Final = bytes(256)
LONGEST_TEXT: Final = 256  # bytes that `intern` compares

# _BYTES_BELOW[n] keeps the first n bytes of a row of words.
_BYTES_BELOW: Final = (
    np.where(np.arange(LONGEST_TEXT) < np.arange(LONGEST_TEXT + 1)[:, None], 0xFF, 0)
    .astype(np.uint8)
    .view("<u4")
)
# Powers of an odd number: a polynomial hash over pairs of words.
_HASH_FACTORS: Final = np.cumprod(np.full(LONGEST_TEXT // 8 + 1, 0x9E3779B97F4A7C15, np.uint64))

_SLOT_BITS: Final = 14  # of a hash: rows have few different texts

# The kernel sends about 12 attributes a message, and traces one message a datagram.
MOST_ATTRIBUTES: Final = 64
_MOST_MESSAGES: Final = 256


def padded(parts: Iterable[bytes]) -> U8:
    """Bytes one behind the other, and `PADDING` behind them, read-only. They are copied once."""
    pieces = [*parts, PADDING]
    whole = np.empty(sum(map(len, pieces)), np.uint8)
    at = 0
    for one in pieces:
        whole[at : at + len(one)] = np.frombuffer(one, np.uint8)
        at += len(one)
    whole.flags.writeable = False
    return whole


def aligned(data: bytes | U8, lengths: U32, received_ns: I64) -> tuple[U8, I64, I64]:
    """The datagrams that lie back to back in ``data``, each at a multiple of 4, as the kernel's own all are.

    ``data``: bytes, or what `padded` made of them. Returns a read-only buffer with `PADDING` behind them, and
    the first word and the length (bytes) of each. Raises `RecordingError` when ``lengths`` and
    ``received_ns`` do not describe the data.
    """
    buffer = padded([data]) if isinstance(data, bytes) else data
    length = lengths.astype(np.int64)
    size = len(buffer) - len(PADDING)
    if len(length) != len(received_ns) or int(length.sum()) != size:
        raise RecordingError(
            f"chunk of datagrams: {len(length)} lengths, {len(received_ns)} receive times and "
            f"{size} bytes do not belong together; the recording is damaged, record again"
        )
    if (length & 3).any():
        ends = np.cumsum(length).tolist()
        starts = [0, *ends[:-1]]
        whole = buffer.tobytes()
        buffer = padded(
            whole[start:end] + bytes(start - end & 3)
            for start, end in zip(starts, ends, strict=True)
        )
    start_word = np.zeros(len(length), np.int64)
    np.cumsum((length[:-1] + 3) >> 2, out=start_word[1:])
    return buffer, start_word, length


def messages(words: U32, start: I64, length: I64, kind: int) -> tuple[I64, I64, I64, Mask]:
    """Find the messages of a kind in datagrams that start at words ``start`` and have ``length`` bytes.

    Returns for each message its datagram, first word and size in bytes, and for each datagram
    whether it holds anything unsound: what is neither of that kind nor NLMSG_DONE or NLMSG_NOOP.
    """
    datagram, word, left = np.arange(len(start)), start, length
    broken = length == 0
    found = []
    for _ in range(_MOST_MESSAGES):
        if not len(datagram):
            break
        size = words.take(word).astype(np.int64)
        type_ = words.take(word + 1) & LENGTH_MASK
        whole = (size >= MESSAGE_HEADER) & (size <= left)
        wanted = whole & (type_ == kind) & (size >= FAMILY_HEADER)
        done = type_ == NLMSG_DONE
        if wanted.all():  # as they are mostly
            found.append((datagram, word, size))
        else:
            broken[datagram[~(wanted | (whole & (done | (type_ == NLMSG_NOOP))))]] = True
            found.append((datagram[wanted], word[wanted], size[wanted]))

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


def attributes(words: U32, word: I64, left: I64, least: I64) -> tuple[I64, Mask]:
    """Walk the attributes in ``left`` bytes from each ``word``, all in lockstep.

    Returns the word of the last attribute of each type, shape (len(least), n), and whether each
    chain of attributes is sound: every length at least ``least`` and within what is left.
    """
    n = len(word)
    at = np.full(len(least) * n, absent(words))
    sound = np.ones(n, np.bool_)
    row = np.arange(n)
    for _ in range(MOST_ATTRIBUTES):
        more = left > 0
        if not more.all():
            row, word, left = row[more], word[more], left[more]
        if not len(row):
            break
        header = words.take(word)
        kind = np.minimum((header >> 16) & TYPE_MASK, len(least) - 1).astype(np.int64)
        size = (header & LENGTH_MASK).astype(np.int64)
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


class Attributes:
    """Where the attributes of n messages lie, by their types: the words of their headers, shape (n,) each.

    ``at``: of each type that any message has; `absent` where a message has none.
    """

    def __init__(self, nowhere: int, count: int, at: dict[int, I64]) -> None:
        self._nowhere = nowhere
        self._count = count
        self._at = at

    @classmethod
    def of(cls, words: U32, at: I64) -> Attributes:
        """Those that `netlink.attributes` found."""
        nowhere = absent(words)
        there = np.flatnonzero((at != nowhere).any(axis=1)).tolist()
        return cls(nowhere, at.shape[1], {kind: at[kind] for kind in there})

    def __len__(self) -> int:
        return self._count

    def has(self, kind: int) -> bool:
        """Whether any message has an attribute of a type."""
        return kind in self._at

    def __getitem__(self, kind: int) -> I64:
        return self._at[kind] if kind in self._at else np.full(self._count, self._nowhere)

    def there(self, kind: int) -> Mask:
        """Which messages have one."""
        there: Mask = self[kind] != self._nowhere
        return there

    def put(self, kind: int, rows: I64, at: I64) -> None:
        """Say of some messages where an attribute lies."""
        self._at[kind][rows] = at

    def take(self, rows: I64) -> Attributes:
        """Those of some messages."""
        at = {kind: one[rows] for kind, one in self._at.items()}
        return Attributes(self._nowhere, len(rows), at)

    def span(self, words: U32, kinds: Sequence[int]) -> tuple[I64, I64]:
        """Where the first of some attributes begins, and where the last of them ends; in words."""
        first = np.full(self._count, self._nowhere)
        end = np.zeros(self._count, np.int64)
        for kind in kinds:
            if self.has(kind):
                size = (words.take(self[kind]) & LENGTH_MASK).astype(np.int64)
                end = np.maximum(end, np.where(self.there(kind), self[kind] + ((size + 3) >> 2), 0))
                first = np.minimum(first, self[kind])
        return first, end


class Fields:
    """What sound messages hold."""

    def __init__(self, buffer: U8, at: Attributes) -> None:
        self._words: U32 = buffer.view("<u4")
        self._big_endian: U32 = buffer.view(">u4")
        self._at = at

    def __len__(self) -> int:
        return len(self._at)

    def there(self, kind: int) -> Mask:
        """Which messages have an attribute."""
        return self._at.there(kind)

    def number(self, kind: int, word: int = 1) -> U32:
        """The big-endian number that many words behind an attribute's header; 0 without it."""
        if not self._at.has(kind):
            return np.zeros(len(self), np.uint32)
        value: U32 = self._big_endian.take(self._at[kind] + word).astype(np.uint32)
        return value

    def or_none(self, kind: int, value: npt.NDArray[np.generic]) -> I64:
        """The value where the attribute is there, else -1."""
        return np.where(self.there(kind), value.astype(np.int64), np.int64(-1))

    def offset(self, kind: int) -> I64:
        """Where in the buffer an attribute's content is, in bytes; -1 without it."""
        return self.or_none(kind, (self._at[kind] + 1) << 2)

    def length(self, kind: int) -> I32:
        """How many bytes it has."""
        if not self._at.has(kind):
            return np.zeros(len(self), np.int32)
        size: I32 = (self._words.take(self._at[kind]) & LENGTH_MASK).astype(np.int32)
        return np.where(self.there(kind), size - np.int32(ATTRIBUTE_HEADER), np.int32(0))

    def texts(self, kind: int, buffer: U8, known: dict[bytes, int]) -> I32:
        """An attribute's text as its number in ``known``; -1 without it."""
        there = self.there(kind)
        if there.all():
            return intern(buffer, self.offset(kind), self.length(kind), known)
        found = np.full(len(self), -1, np.int32)
        found[there] = intern(buffer, self.offset(kind)[there], self.length(kind)[there], known)
        return found


def absent(words: U32) -> int:
    """Return the word that stands for an attribute that is not there: the first of the padding."""
    return len(words) - len(PADDING) // 4


def intern(buffer: U8, offset: I64, length: I32, texts: dict[bytes, int]) -> I32:
    """Number equal texts equally; only one of each becomes a Python object.

    A text is at most `LONGEST_TEXT` bytes, without the NUL that may end it; new ones get the next numbers
    in ``texts``.
    """
    if not len(offset):
        return np.empty(0, np.int32)
    length = length - (buffer.take(offset + length - 1) == 0) * (length > 0)
    rows = bytes_of(buffer, offset, length)
    example, number = distinct(rows)
    places = zip(offset[example].tolist(), length[example].tolist(), strict=True)
    numbers = [
        texts.setdefault(buffer[start : start + size].tobytes(), len(texts))
        for start, size in places
    ]
    return np.array(numbers, np.int32)[number]


def bytes_of(
    buffer: U8, offset: I64, length: npt.NDArray[np.integer], beside: Sequence[npt.ArrayLike] = ()
) -> U32:
    """The bytes at each offset as a row of words, for `distinct`: zeros behind them, and their length.

    They are at most `LONGEST_TEXT`. ``beside``: further words of each row.
    """
    width = max(1, (int(length.max(initial=0)) + 3) >> 2)
    used = width + 1 + len(beside)
    rows = np.zeros((len(offset), used + used % 2), "<u4")
    np.bitwise_and(
        spans(buffer, 4 * width)[offset].view("<u4").reshape(-1, width),
        _BYTES_BELOW[:, :width].take(length, axis=0),
        out=rows[:, :width],
    )
    for at, column in enumerate([length, *beside], width):
        rows[:, at] = column
    return rows


def distinct(rows: U32) -> tuple[I64, I64]:
    """Equal rows of an even number of words: one of each, and for every row the number of its equal.

    Hashes propose which are equal, all bytes decide: what a hash wrongly put beside another row is sorted
    out once more.
    """
    pairs = rows.view(np.uint64)
    hashes = pairs @ _HASH_FACTORS[: pairs.shape[1]]
    slot = (hashes >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)
    example_of = np.full(1 << _SLOT_BITS, -1)
    example_of[slot] = np.arange(len(rows))
    wrong = np.flatnonzero((pairs != pairs.take(example_of[slot], axis=0)).any(axis=1))
    used = np.flatnonzero(example_of >= 0)
    example = example_of[used]
    number_of = np.zeros(len(example_of), np.int64)
    number_of[used] = np.arange(len(used))
    number = number_of[slot]
    if len(wrong):
        _, more, among = np.unique(rows[wrong], axis=0, return_index=True, return_inverse=True)
        number[wrong] = len(example) + among.reshape(-1)
        example = np.concatenate([example, wrong[more]])
    return example, number
