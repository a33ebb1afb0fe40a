"""Whose each drop is, where records and packets fit each other in several ways.

A packet is dropped once. So a record that fits one packet takes it from the others; where nothing is left to
choose by, the records and packets that are connected make a group: some of these were dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import I64, Mask
    from iptrec.packets.drop_records import Records

NONE: Final = np.zeros(0, np.int64)
_MOST_ROUNDS: Final = 16


class Found(NamedTuple):
    """Which traversal each of some records is of, and groups of records that are of some of several ones."""

    record: I64
    traversal: I64
    groups: list[tuple[I64, I64]]

    def one_each(self, some: I64, of: I64) -> bool:
        """Whether the records of a group are of one each of its traversals, if none is of a copy."""
        return len(some) == len(of) and not np.isin(of, self.traversal).any()

    def used(self, decided: int, time_ns: I64, read_ns: int) -> Mask:
        """Which of all records are not to be asked again: those of traversals that are decided.

        Of more records than traversals those may be of packets that are still to be read which came after
        ``read_ns``. ``time_ns``: of all records.
        """
        used = np.zeros(len(time_ns), np.bool_)
        order = np.argsort(time_ns[self.record], kind="stable")
        one, of = self.record[order], self.traversal[order]
        first = np.zeros(len(of), np.bool_)
        first[np.unique(of, return_index=True)[1]] = True
        used[one[(of < decided) & (first | (time_ns[one] <= read_ns))]] = True
        for records, traversals in self.groups:
            some = records[np.argsort(time_ns[records], kind="stable")]
            kept = (np.arange(len(some)) < len(traversals)) | (time_ns[some] <= read_ns)
            used[some[kept]] |= bool(traversals.min() < decided)
        return used


def preferred(record: I64, fits: Mask, likely: Mask) -> Mask:
    """Of the pairs that fit those that are likely, where a record has any."""
    any_likely = np.zeros(int(record.max(initial=-1)) + 1, np.bool_)
    any_likely[record[fits & likely]] = True
    preferred: Mask = fits & (likely | ~any_likely[record])
    return preferred


def who_is_alone(record: I64, traversal: I64) -> Found:
    """Settle the pairs of records that can be of one traversal only, again and again: it is dropped once.

    The others are in groups, those that share a traversal together.
    """
    sure = [(NONE, NONE)]
    for _ in range(_MOST_ROUNDS):
        alone = np.bincount(record)[record] == 1 if len(record) else np.zeros(0, np.bool_)
        if not alone.any():
            break
        sure.append((record[alone], traversal[alone]))
        left = ~np.isin(traversal, traversal[alone])
        record, traversal = record[left], traversal[left]
    found = [np.concatenate(some) for some in zip(*sure, strict=True)]
    return Found(found[0], found[1], list(_groups(record, traversal)))


def _groups(record: I64, traversal: I64) -> Iterator[tuple[I64, I64]]:
    """The records and traversals of pairs that are connected: one may be of another's, and so on."""
    if not len(record):
        return
    _, one = np.unique(record, return_inverse=True)
    distinct, other = np.unique(traversal, return_inverse=True)
    label, before = np.arange(len(distinct)), None
    while before is None or (label != before).any():
        before, lowest = label, np.full(int(one.max()) + 1, len(distinct))
        np.minimum.at(lowest, one, label[other])
        label = label.copy()
        np.minimum.at(label, other, lowest[one])
        label = label[label]
    order = np.argsort(label[other], kind="stable")
    edges = np.flatnonzero(np.diff(label[other][order])) + 1
    split = np.split(record[order], edges), np.split(traversal[order], edges)
    for some, of in zip(*split, strict=True):
        yield np.unique(some), np.unique(of)


def by_count(records: Records, found: Found, crowds: list[tuple[I64, I64]]) -> Found:
    """Settle the groups that have as many records as traversals, all for one cause: each was dropped.

    Of the others those are put together that share a traversal: see `Found.one_each`.
    """
    sure, groups = [(found.record, found.traversal)], []
    for some, of in [*found.groups, *crowds]:
        if not (len(some) and len(of)):
            continue
        if len(some) == len(of) and len(np.unique(records.cause[some])) == 1:
            sure.append((some[np.argsort(records.time_ns[some], kind="stable")], np.sort(of)))
        else:
            groups.append((some, of))
    record, traversal = (np.concatenate(each) for each in zip(*sure, strict=True))
    return Found(record, traversal, list(_connected(groups)))


def _connected(groups: list[tuple[I64, I64]]) -> Iterator[tuple[I64, I64]]:
    """Groups of records and traversals, those that share one put together."""
    if not groups:
        return
    # One of each is enough to connect all of a group.
    pairs = [
        (np.append(some, np.full(len(of), some[0])), np.append(np.full(len(some), of[0]), of))
        for some, of in groups
    ]
    record, traversal = (np.concatenate(each) for each in zip(*pairs, strict=True))
    yield from _groups(record, traversal)
