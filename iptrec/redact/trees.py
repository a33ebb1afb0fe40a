"""A keyed one-to-one map of numbers that keeps prefixes (Xu, Fan, Ammar, Moon: Crypto-PAn, ICNP 2002).

Two numbers that have their first n bits alike have them alike afterwards, and no more. Each bit is turned or
not by a random function of the bits before it: a binary tree, in whose nodes the two branches change places.
What has to stay as it is makes nodes stay: those on the way to both ends of a range, so that it is a range
afterwards. The first bits (the head) are mapped as a whole, without keeping prefixes: else a range that stays,
10.0.0.0/8, would give away the first bits of all that is beside it. A head changes places only with those that
are in the same ranges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iptrec.redact.key import Key

_BYTE: Final = 8
_CACHED: Final = 1 << 16


class Tree:
    """Numbers of ``size`` bits, of which the first ``head`` are mapped as a whole.

    ``keep``, `keep_border`, `stays` and `stays_as_is` are to be called before the first number is mapped.
    """

    def __init__(self, key: Key, purpose: str, size: int, head: int) -> None:
        self._key = key
        self._purpose = purpose
        self._size = size
        self._rest = size - head
        self._head = head
        self._ranges: list[tuple[int, int]] = []  # of heads, each a set that stays
        self._kept: set[tuple[int, int]] = (
            set()
        )  # nodes: how many bits are behind them, and those before
        self.ends_stay: set[tuple[int, int]] = (
            set()
        )  # ranges over several heads: both ends are known
        self._same: list[tuple[int, int]] = []  # ranges whose numbers stay
        self._edges: set[int] = (
            set()
        )  # first numbers of ranges that stay, and first ones behind them
        self._flips: dict[tuple[int, int], bytes] = {}
        self._known: dict[int, int] = {}
        self._heads: dict[int, int] | None = None

    def keep(self, low: int, high: int) -> None:
        """Have a range be a range afterwards, of as many numbers."""
        first, last = low >> self._rest, high >> self._rest
        split = (low ^ high).bit_length()
        if not (low | ~high) & ((1 << split) - 1):  # a prefix
            if first < last:
                self._ranges.append((first, last))
            return
        if first < last:
            self.ends_stay.add((low, high))
            self._ranges += [(first, first), (last, last)]
            if first + 1 < last:
                self._ranges.append((first + 1, last - 1))
        for end in (low, high):
            self._keep_way(end, 0, min(split, self._rest))

    def keep_border(self, first: int) -> bool:
        """Have what is below a number stay below it, and it be the same one; False where that would tell of it.

        As many numbers are below it afterwards, so it cannot be another one; and of those beside it the bits
        that they share with it stay. That tells nothing where it is the first one of a head, or an end of what
        stays.
        """
        if 0 < first < 1 << self._size:
            if first & ((1 << self._rest) - 1) and not self._is_known(first):
                return False
            head = first >> self._rest
            self._ranges.append((head, (1 << self._head) - 1))
            if first & ((1 << self._rest) - 1):
                self._ranges.append((head, head))
        return True

    def _is_known(self, first: int) -> bool:
        """Whether it, and the one before it, are in or at a range that stays."""
        return first in self._edges or any(low <= first <= high + 1 for low, high in self._same)

    def stays(self, low: int, high: int) -> None:
        """Have a range stay the same one; what is in it is mapped."""
        self.keep(low, high)
        self._edges |= {low, high + 1}
        first, last = low >> self._rest, high >> self._rest
        if first == last:
            self._ranges.append((first, first))
            self._keep_way(low, (low ^ high).bit_length(), self._rest)

    def stays_as_is(self, low: int, high: int) -> None:
        """Have each number of a range stay."""
        self.stays(low, high)
        self._same.append((low, high))
        first, last = low >> self._rest, high >> self._rest
        if last - first < 1 << _BYTE:
            self._ranges += [(one, one) for one in range(first, last + 1)]

    def _keep_way(self, number: int, end: int, begin: int) -> None:
        for behind in range(end + 1, begin + 1):
            self._kept.add((behind, number >> behind))

    def __call__(self, number: int) -> int:
        """The number in its place."""
        found = self._known.get(number)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            found = self._known[number] = self._mapped(number)
        return found

    def prefix(self, number: int, length: int) -> int:
        """The first number of the prefix in the place of another one.

        One that is shorter than a head has to be kept, and stays.
        """
        behind = self._size - length
        first = number >> behind << behind
        if length < self._head:
            return first
        return self(first) >> behind << behind

    def _mapped(self, number: int) -> int:
        if any(low <= number <= high for low, high in self._same):
            return number
        behind = self._rest
        found = self._head_of(number >> behind) if self._head else 0
        while behind:
            many = min(_BYTE, behind)
            before = number >> behind
            flips = self._flips_at(behind, before)
            bits = number >> (behind - many) & ((1 << many) - 1)
            turned = 0
            for one in range(many):
                node = (1 << one) | (bits >> (many - one))
                turn = flips[node >> 3] >> (node & 7) & 1
                if turn and self._kept and (behind - one, number >> (behind - one)) in self._kept:
                    turn = 0
                turned = turned << 1 | turn
            found = found << many | (bits ^ turned)
            behind -= many
        return found

    def _flips_at(self, behind: int, before: int) -> bytes:
        """A bit for each node of the next eight bits."""
        at = behind, before
        if at not in self._flips:
            if len(self._flips) >= _CACHED:
                self._flips.clear()
            told = behind.to_bytes(2, "big") + before.to_bytes(16, "big")
            self._flips[at] = self._key.digest(self._purpose, told)
        return self._flips[at]

    def _head_of(self, head: int) -> int:
        if self._heads is None:
            self._heads = self._shuffled()
        return self._heads[head]

    def _shuffled(self) -> dict[int, int]:
        """Each head and the one in its place: of those that are in the same ranges."""
        edges = sorted(
            {0, *(low for low, _ in self._ranges), *(high + 1 for _, high in self._ranges)}
        )
        ranges = sorted(set(self._ranges))
        alike: dict[tuple[int, ...], list[int]] = {}
        for low, end in zip(edges, [*edges[1:], 1 << self._head], strict=True):
            of = tuple(at for at, (first, last) in enumerate(ranges) if first <= low <= last)
            alike.setdefault(of, []).extend(range(low, end))
        found: dict[int, int] = {}
        for some in alike.values():
            mixed = sorted(some, key=self._rank) if len(some) > 1 else some
            found.update(zip(some, mixed, strict=True))
        return found

    def _rank(self, head: int) -> bytes:
        return self._key.digest(self._purpose, b"head" + head.to_bytes(2, "big"), 16)
