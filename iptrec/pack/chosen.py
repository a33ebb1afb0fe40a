"""Which packets are packed: those that are selected, and those that have to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from iptrec.packets.relations import Relations
from iptrec.packets.window import windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.packets import Packets
    from iptrec.names import I64, Mask
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording


class Choice(NamedTuple):
    """``numbers``: whether each packet, by its number, is packed; the first one stands for none.

    ``selected``: how many were; ``related``: how many more are packed, ``packets``: there are.
    """

    numbers: Mask
    selected: int
    related: int
    packets: int


def choice(recording: Recording, packets: Packets) -> Choice:
    """The packets that are selected, and all that these have to do with, and so on.

    ``packets``: the selection. Where a packet is another one's answer, copy, quote, or the same again, each
    without the other would be told otherwise.
    """
    selected = [batch.window.number + batch.positions for batch in packets.batches(objects=False)]
    count, pairs = _related(recording)
    numbers = np.zeros(count + 1, np.bool_)
    numbers[np.concatenate([np.zeros(0, np.int64), *selected])] = True
    chosen = int(numbers.sum())
    one, other = pairs
    while (more := numbers[one] != numbers[other]).any():
        numbers[one[more]] = numbers[other[more]] = True
    return Choice(numbers, chosen, int(numbers.sum()) - chosen, count)


def _related(recording: Recording) -> tuple[int, tuple[I64, I64]]:
    """How many packets there are, and the numbers of those of which one has to do with the other."""
    count, found = 0, [np.zeros((2, 0), np.int64)]
    relations: dict[int, Relations] = {}
    for window in windows(recording):
        known = relations.setdefault(window.stream.id, Relations())
        known.next_window(window)
        found += _pairs(known, window)
        count = window.number + window.decided - 1
    one, other = np.concatenate(found, axis=1)
    return count, (one, other)


def _pairs(relations: Relations, window: Window) -> Iterator[I64]:
    own = window.number + np.arange(window.decided)
    for numbers in relations.columns().values():
        some = numbers > 0
        yield np.stack([own[some], numbers[some]])
    for position in np.flatnonzero(relations.reassembled()).tolist():
        pieces = np.array(relations.pieces(position), np.int64)
        yield np.stack([np.full(len(pieces), window.number + position), pieces])
