"""Where the attributes of many netlink messages lie, found for all messages of one layout at once.

Most messages are laid out as others before them: the same attributes in the same order, with the same lengths,
but for the last one, which is as long as the message has room. What a few words of a message tell proposes its
layout; the headers of all of its attributes decide. A message of a layout that is not known is walked, and
those that look alike follow; what is left after some rounds is walked in lockstep (`netlink.attributes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode.netlink import (
    LENGTH_MASK,
    MOST_ATTRIBUTES,
    TYPE_MASK,
    Attributes,
    absent,
    attributes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.names import I64, U32, Mask

_SLOT_BITS: Final = 12
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_MOST_ROUNDS: Final = 4
_MOST_READ: Final = 64  # messages a round
_MOST_LAYOUTS: Final = 512
_MOST_WORDS: Final = 256  # of a message, up to its last attribute
_BLOCK: Final = 8192  # messages; what is read of them stays in the processor's cache


_NO_ROWS: Final = np.zeros(0, np.int64)


class _Tables(NamedTuple):
    """Of all layouts, the last one stands for none.

    ``positions``, ``headers``: of all attributes but the last, shape (attributes, layouts); those of which a
    layout has none repeat its first one. ``last``, ``kind``, ``least``: of the last one. ``offsets``, ``ends``:
    where each attribute begins and ends, shape (types, layouts); the last one's end is not known, -1.
    """

    positions: I64
    headers: U32
    last: I64
    kind: U32
    least: I64
    offsets: I64
    ends: I64


class _Layout(NamedTuple):
    """The attributes of a message: words from its first one on, and headers."""

    positions: tuple[int, ...]
    headers: tuple[int, ...]


class Layouts:
    """The layouts that messages had.

    ``least``: the shortest sound length of each attribute, by type; the last entry stands for all higher types.
    ``told_by``: the words, from the first attribute on, by which layouts are told; ``by_size``: and by the
    size.
    """

    def __init__(self, least: I64, told_by: Sequence[int], *, by_size: bool = False) -> None:
        self._least = least
        self._told_by = told_by
        self._by_size = by_size
        self._slots = np.full(1 << _SLOT_BITS, -1)  # the layout that messages of a slot had last
        self._known: dict[_Layout, int] = {}
        self._tables = self._made()

    def walk(self, words: U32, word: I64, left: I64) -> tuple[Attributes, Mask]:
        """Find the attributes in ``left`` bytes from each ``word``; and which chains of them are sound.

        See `netlink.attributes`.
        """
        layout = np.full(len(word), -1)
        rest = [_NO_ROWS]
        for begin in range(0, len(word), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            layout[block], unknown = self._layouts(words, word[block], left[block])
            rest.append(unknown + begin)
        rows = np.concatenate(rest)
        sound = np.ones(len(word), np.bool_)
        placed = _Placed(absent(words), word, layout, self._tables)
        if not len(rows):
            return placed, sound
        rest_at, rest_sound = attributes(words, word[rows], left[rows], self._least)
        sound[rows] = rest_sound
        found = {}
        for kind, one in enumerate(rest_at):
            if placed.has(kind) or (one != absent(words)).any():
                found[kind] = placed[kind]
                found[kind][rows] = one
        return Attributes(absent(words), len(word), found), sound

    def _layouts(self, words: U32, word: I64, left: I64) -> tuple[I64, I64]:
        """The layout of each message, and the messages of which it is not known."""
        slot = self._slot(words, word, left)
        layout = self._slots.take(slot)
        fits = self._fits(words, word, left, layout)
        rows = np.flatnonzero(~fits)
        for _ in range(_MOST_ROUNDS):
            if not len(rows) or not self._learn(words, word, left, slot, rows):
                break
            again = self._slots.take(slot[rows])
            fits = self._fits(words, word[rows], left[rows], again)
            layout[rows] = again
            rows = rows[~fits]
        layout[rows] = -1
        return layout, rows

    def _slot(self, words: U32, word: I64, left: I64) -> I64:
        told = left.astype(np.uint64) if self._by_size else np.zeros(len(word), np.uint64)
        for one in self._told_by:
            told = (told * _FACTOR) ^ words.take(word + one)
        return ((told * _FACTOR) >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)

    def _fits(self, words: U32, word: I64, left: I64, layout: I64) -> Mask:
        """Whether messages have the layouts that are proposed, and are sound then."""
        room = left - (self._tables.last.take(layout) << 2)
        inside = room > 0
        if inside.all():
            return self._agree(words, word, room, layout)
        rows = np.flatnonzero(inside)
        inside[rows] = self._agree(words, word[rows], room[rows], layout[rows])
        return inside

    def _agree(self, words: U32, word: I64, room: I64, layout: I64) -> Mask:
        """Whether the headers are those of the layouts; ``room``: bytes for the last attribute, more than 0."""
        of = self._tables
        header = words.take(word + of.last.take(layout))
        size = (header & LENGTH_MASK).astype(np.int64)
        fits: Mask = (header >> 16) == of.kind.take(layout)
        fits &= (size >= of.least.take(layout)) & (size <= room) & (size + 3 & ~3 >= room)
        for position, expected in zip(of.positions, of.headers, strict=True):
            fits &= words.take(word + position.take(layout)) == expected.take(layout)
        return fits

    def _learn(self, words: U32, word: I64, left: I64, slot: I64, rows: I64) -> bool:
        """Walk one message of each slot; whether there is any layout to try."""
        slots, first = np.unique(slot[rows], return_index=True)
        before = len(self._known)
        learnt = False
        for one, row in zip(slots[:_MOST_READ].tolist(), rows[first].tolist(), strict=False):
            found = self._read(words, int(word[row]), int(left[row]))
            if found is None or (found not in self._known and len(self._known) >= _MOST_LAYOUTS):
                continue
            self._slots[one] = self._known.setdefault(found, len(self._known))
            learnt = True
        if len(self._known) > before:
            self._tables = self._made()
        return learnt

    def _read(self, words: U32, word: int, left: int) -> _Layout | None:
        """The layout of a message; None: it is not sound, or too long."""
        positions, headers = [], []
        at, told = 0, words[word : word + _MOST_WORDS].tolist()
        highest = len(self._least) - 1
        while left > 0:
            if at >= len(told):
                return None
            size = told[at] & LENGTH_MASK
            if not self._least[min(told[at] >> 16 & TYPE_MASK, highest)] <= size <= left:
                return None
            positions.append(at)
            headers.append(told[at])
            at += (size + 3) >> 2
            left -= size + 3 & ~3
        # Of a single attribute, the last one, nothing could be compared.
        if not 1 < len(positions) <= MOST_ATTRIBUTES:
            return None
        headers[-1] &= ~LENGTH_MASK
        return _Layout(tuple(positions), tuple(headers))

    def _made(self) -> _Tables:
        """The tables of all that are known."""
        count = len(self._known) + 1
        most = max((len(one.positions) for one in self._known), default=1) - 1
        highest = len(self._least) - 1
        positions = np.zeros((most, count), np.int64)
        headers = np.zeros((most, count), np.uint32)
        last = np.full(count, 1 << 40)
        kind, least = np.zeros(count, np.uint32), np.zeros(count, np.int64)
        offsets = np.full((len(self._least), count), -1)
        ends = np.full((len(self._least), count), -1)
        for number, (own, told) in enumerate(self._known):
            for at, header in zip(own, told, strict=True):
                of = min(header >> 16 & TYPE_MASK, highest), number
                offsets[of], ends[of] = at, at + ((header & LENGTH_MASK) + 3 >> 2)
            ends[of] = -1
            rows = len(own) - 1
            headers[:, number] = told[0]
            positions[:rows, number], headers[:rows, number] = own[:-1], told[:-1]
            last[number], kind[number] = own[-1], told[-1] >> 16
            least[number] = self._least[min(told[-1] >> 16 & TYPE_MASK, highest)]
        return _Tables(positions, headers, last, kind, least, offsets, ends)


class _Placed(Attributes):
    """Those of messages of known layouts: each is placed when it is asked for."""

    def __init__(self, nowhere: int, word: I64, layout: I64, tables: _Tables) -> None:
        super().__init__(nowhere, len(word), {})
        self._word = word
        self._layout = layout
        self._tables = tables
        used = np.flatnonzero(np.bincount(layout + 1, minlength=tables.offsets.shape[1])) - 1
        there = tables.offsets[:, used] >= 0
        self._there: list[bool] = [bool(one.any()) for one in there]
        self._everywhere: list[bool] = [bool(one.all()) for one in there]
        self._changed: set[int] = set()

    def has(self, kind: int) -> bool:
        """See `Attributes`."""
        return bool(self._there[kind])

    def __getitem__(self, kind: int) -> I64:
        if not self._there[kind]:
            return super().__getitem__(kind)
        if kind not in self._at:
            step = self._tables.offsets[kind].take(self._layout)
            at = self._word + step
            if not self._everywhere[kind]:
                at[step < 0] = self._nowhere
            self._at[kind] = at
        return self._at[kind]

    def there(self, kind: int) -> Mask:
        """See `Attributes`."""
        if self._there[kind] == self._everywhere[kind]:
            return np.full(len(self), self._there[kind])
        return super().there(kind)

    def put(self, kind: int, rows: I64, at: I64) -> None:
        """See `Attributes`."""
        self[kind][rows] = at
        self._changed.add(kind)
        self._everywhere[kind] = False

    def take(self, rows: I64) -> Attributes:
        """See `Attributes`."""
        taken = _Placed(self._nowhere, self._word[rows], self._layout[rows], self._tables)
        taken._at = {kind: one[rows] for kind, one in self._at.items()}
        for kind in self._changed:
            taken._changed.add(kind)
            taken._everywhere[kind] = False
        return taken

    def span(self, words: U32, kinds: Sequence[int]) -> tuple[I64, I64]:
        """See `Attributes`."""
        of = self._tables
        offsets, ends = of.offsets[list(kinds)], of.ends[list(kinds)]
        first = np.where(offsets < 0, self._nowhere, offsets).min(axis=0).take(self._layout)
        end = self._word + ends.max(axis=0).take(self._layout)
        by_last = ((offsets >= 0) & (ends < 0)).any(axis=0)
        rows = np.flatnonzero(by_last.take(self._layout))
        at = self._word[rows] + of.last.take(self._layout[rows])
        end[rows] = at + ((words.take(at) & LENGTH_MASK).astype(np.int64) + 3 >> 2)
        return self._word + first, end
