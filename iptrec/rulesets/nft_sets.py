"""The named sets and maps of nf_tables over time: as they were listed, and between listings as the kernel told.

Which of its states a packet met is known by the numbers of the rulesets that were told among the traces, and by
time. What rules do to a set nobody tells: such a set is known by no state of it.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode import nft_elements
from iptrec.decode.generations import BEFORE_ALL, LAST_OF_ALL
from iptrec.decode.rulesets import nft_sets
from iptrec.rulesets.nft import GENERATIONS, LISTING, UNKNOWN, by_kernel
from iptrec.rulesets.nft_members import CannotFollowError, Commit, History, Replayed
from iptrec.rulesets.table_names import table_name
from iptrec.rulesets.timeline import ANY_TIME, EVER, FROM_THE_FIRST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iptrec.decode.nft_elements import Told
    from iptrec.decode.rulesets.nft_sets import NftSet, Sets
    from iptrec.decode.rulesets.types import TableName
    from iptrec.names import Family
    from iptrec.recording.rows import Snapshot
    from iptrec.rulesets.changes import Changes
    from iptrec.rulesets.nft_members import Key, Until
    from iptrec.rulesets.nft_states import Followed
    from iptrec.rulesets.timeline import Came

    Members = NftSet | Replayed
    _Set = tuple[TableName, str]

_OF_FAMILY: Final[dict[Family, str]] = {"ipv4": "ip", "ipv6": "ip6"}
# The ruleset is listed a while before the first snapshot's time, and after that of the others.
_LISTING_NS: Final = 60_000_000_000
# When the elements of a listing end is known by what was told before, up to so many listings back.
_CARRIED_OVER: Final = 64
_MOST_TOLD: Final = (
    200_000  # messages and elements from one listing to the next; of more nothing is known
)
_LISTINGS, _SPANS, _CHANGES = 64, 2, 500_000  # that are kept


class When(NamedTuple):
    """When a packet was looked up: between two times (epoch, ns), and between two generations of the rules."""

    time_ns: tuple[int, int]
    generations: Came = ANY_TIME


class _Part(NamedTuple):
    """Some states one after the other, from the ``first`` on, by their numbers.

    ``listing``: one as the sets were listed there, by index; None: nobody knows. ``span``: or one after each of
    the transactions that were told from one listing to another, by index; ``listing`` then has the last.
    """

    first: int
    listing: int | None
    span: int | None = None


class _Listed(NamedTuple):
    """``content``: None where the ruleset was gone before it was listed."""

    time_ns: int
    content: bytes | None


class _Span(NamedTuple):
    """Two listings by index, and what was told between them."""

    begin: int
    end: int
    followed: Followed


class _Name(NamedTuple):
    """Whose sets they are: the family of packets, and the table as it is called."""

    family: Family
    table: str
    name: str


class NftSets:
    """The sets of one namespace, by its snapshots, and by its ``changes`` where all of these were told.

    ``followed``: see `States.followed`.
    """

    def __init__(
        self,
        snapshots: Iterable[Snapshot],
        followed: Iterable[Followed],
        changes: Changes,
        *,
        single: bool,
    ) -> None:
        self._single = single
        self._changes = changes
        self._lists: list[_Listed] = []
        self._spans: list[_Span] = []
        self._parts: list[_Part] = []
        self._times = _Times()
        self._add_all(snapshots, {one.begin_ns: one for one in followed})
        self._read = functools.lru_cache(maxsize=_LISTINGS)(self._parsed)
        self._told = functools.lru_cache(maxsize=_SPANS)(self._told_in)
        self._histories: dict[tuple[int, _Name], History | None] = {}
        self._kept = 0  # changes in them

    def _add_all(self, snapshots: Iterable[Snapshot], followed: Mapping[int, Followed]) -> None:
        span: tuple[int, Followed] | None = None
        torn_ns = EVER
        for one in snapshots:
            if one.kind == GENERATIONS:  # the listing beside it is of no one moment
                torn_ns = one.time_ns
            if one.kind not in (LISTING, UNKNOWN):
                continue
            if span is not None and one.time_ns < (span[1].end_ns or EVER):
                continue  # one of those that were told
            number = len(self._lists)
            whole = one.kind == LISTING and one.time_ns != torn_ns and not by_kernel(one)
            content = one.content if whole else None
            self._lists.append(_Listed(one.time_ns, content))
            if span is not None:
                self._follow(_Span(span[0], number, span[1]))
            else:
                self._add_listed(one, number, followed.get(one.time_ns))
            then = followed.get(one.time_ns) if content is not None else None
            span = None
            if then is not None and then.end_ns is not None:
                span = number, then
            elif then is not None:
                self._add_unknown(then)

    def _add_listed(self, one: Snapshot, number: int, then: Followed | None) -> None:
        generations = (BEFORE_ALL, LAST_OF_ALL if then is None else then.generation)
        if not number:
            since = EVER, EVER, generations
            if then is not None and then.since[1] > EVER:
                self._add(None, EVER, EVER, FROM_THE_FIRST)
                since = then.since
            self._add(number, *since)
            return
        after = one.time_ns if one.after_ns is None else one.after_ns
        # By how many changes it came to be nobody knows, nor what it was meanwhile.
        self._add(None, after, after, ANY_TIME)
        self._add(number, after, one.time_ns, generations)

    def _add_unknown(self, then: Followed) -> None:
        """What came after a listing, from the first transaction that did something to sets: nobody knows."""
        for after_ns, by_ns, generation in then.moments.tolist():
            self._add(None, after_ns, by_ns, (generation - 1, generation))

    def _add(self, listing: int | None, after_ns: int, by_ns: int, generations: Came) -> None:
        self._parts.append(_Part(len(self._times), listing))
        self._times.add(after_ns, by_ns, generations)

    def _follow(self, span: _Span) -> None:
        if len(span.followed.moments):
            self._parts.append(_Part(len(self._times), span.end, len(self._spans)))
        self._spans.append(span)
        for moment in span.followed.moments:
            after_ns, by_ns, generation = moment.tolist()
            self._times.add(after_ns, by_ns, (generation - 1, generation))

    def at(self, when: When, family: Family, table: str, name: str) -> list[Members | None]:
        """A set of a table, each that may have been the one; None: not known."""
        whose = _Name(family, table, name)
        found: list[Members | None] = []
        first, last = self._times.candidates(when)
        number = bisect.bisect_right(self._parts, first, key=lambda one: one.first) - 1
        for part in itertools.islice(self._parts, max(number, 0), None):
            if part.first > last:
                break
            if part.span is not None:
                begin, end = max(first - part.first, 0) + 1, last - part.first + 1
                found.append(self._told_of(part.span, (begin, end), whose, others=bool(found)))
            else:
                found.append(None if part.listing is None else self._set(part.listing, whose))
        return found

    def _told_of(
        self, number: int, steps: tuple[int, int], whose: _Name, *, others: bool
    ) -> Members | None:
        """A set after some transactions of a span; ``others``: or as it was before the first of them."""
        span = self._spans[number]
        begin, end = steps[0], min(steps[1], len(span.followed.moments))
        if (history := self._history(number, whose)) is not None:
            return Replayed(history, (begin - others, end))
        return self._set(span.end, whose) if self._stays(number, begin, whose) else None

    def _stays(self, number: int, step: int, whose: _Name) -> bool:
        """Whether a set is the same from a transaction of a span to its end."""
        span = self._spans[number]
        if step == len(span.followed.moments):
            return True
        begin, end = (self._set(one, whose) for one in (span.begin, span.end))
        told, table = self._told(number), self._table(span.end, whose)
        if begin is None or end is None or told is None or (table, whose.name) in told:
            return False
        if begin.changing:  # the rule that did it is gone
            return False
        return end.expiring or begin.members == end.members

    def _set(self, number: int, whose: _Name) -> NftSet | None:
        sets = self._read(number) or {}
        table = self._table(number, whose)
        return None if table is None else sets[table].get(whose.name)

    def _table(self, number: int, whose: _Name) -> TableName | None:
        """The table of a listing that is called so."""
        own = (_OF_FAMILY[whose.family], "inet", "bridge", "netdev")
        for name in self._read(number) or {}:
            if name[0] in own and table_name(name, single=self._single) == whose.table:
                return name
        return None

    def _history(self, number: int, whose: _Name) -> History | None:
        """See `_history_of`; those that were asked for last are kept."""
        key = number, whose
        if key in self._histories:
            found = self._histories[key] = self._histories.pop(key)
            return found
        found = self._histories[key] = self._history_of(*key)
        self._kept += _size(found)
        while self._kept > _CHANGES and len(self._histories) > 1:
            self._kept -= _size(self._histories.pop(next(iter(self._histories))))
        return found

    def _history_of(self, number: int, whose: _Name) -> History | None:
        """A set between two listings; None where what was told does not tell it."""
        span = self._spans[number]
        begin, end = (self._set(one, whose) for one in (span.begin, span.end))
        table = self._table(span.begin, whose) or self._table(span.end, whose)
        told = self._told(number)
        if table is None or told is None:
            return None
        of = told.get((table, whose.name), {})
        moments = enumerate(span.followed.moments, 1)
        commits = (
            Commit(int(after), int(by), of.get(step, ())) for step, (after, by, _) in moments
        )
        try:
            return History.of(begin, end, commits, self._carried(number, whose))
        except CannotFollowError:
            return None

    def _carried(self, number: int, whose: _Name) -> Mapping[Key, Until]:
        """When elements will end that were told of before a span."""
        before = number - 1
        if not number % _CARRIED_OVER or self._spans[before].end != self._spans[number].begin:
            return {}
        begin = self._set(self._spans[number].begin, whose)
        if begin is None or not begin.expiring:
            return {}
        history = self._history(before, whose)
        return {} if history is None else history.carried()

    def _told_in(self, number: int) -> Mapping[_Set, Mapping[int, list[Told]]] | None:
        """What transactions of a span did to each set, by their numbers; None where that is too much."""
        followed = self._spans[number].followed
        found: dict[_Set, dict[int, list[Told]]] = {}
        step = {one: step for step, one in enumerate(followed.moments[:, 2].tolist(), 1)}
        missing = {*step}
        datagrams = self._changes.between(*followed.received_ns)
        try:
            for generation, told in nft_elements.told(datagrams, _MOST_TOLD):
                if generation not in missing:
                    continue  # of before or after
                missing.remove(generation)
                for one in told:
                    of = found.setdefault((one.table, one.name), {})
                    of.setdefault(step[generation], []).append(one)
        except nft_elements.TooManyError:
            return None
        return None if missing else found

    def _parsed(self, number: int) -> Sets | None:
        one = self._lists[number]
        listed = (
            (one.time_ns, one.time_ns + _LISTING_NS)
            if number
            else (one.time_ns - _LISTING_NS, one.time_ns)
        )
        return None if one.content is None else nft_sets.parse(one.content, listed)


def _size(history: History | None) -> int:
    return 1 if history is None else history.size


class _Times:
    """When each state came: after a time and not after another one, and the same of generations."""

    def __init__(self) -> None:
        self._after_ns, self._by_ns = array("q"), array("q")
        self._after, self._by = array("q"), array("q")  # generations

    def __len__(self) -> int:
        return len(self._after_ns)

    def add(self, after_ns: int, by_ns: int, generations: Came) -> None:
        """Add the next one."""
        self._after_ns.append(max([after_ns, *self._after_ns[-1:]]))
        self._by_ns.append(max([by_ns, *self._by_ns[-1:]]))
        self._after.append(generations[0])
        self._by.append(generations[1])

    def candidates(self, when: When) -> tuple[int, int]:
        """The first and the last state that a packet may have met."""
        by_time = _within(self._after_ns, self._by_ns, when.time_ns)
        by_number = _within(*self._came, when.generations)
        first, last = max(by_time[0], by_number[0]), min(by_time[1], by_number[1])
        if first <= last:
            return first, last
        return min(by_time[0], by_number[0]), max(by_time[1], by_number[1])  # nothing in common

    @functools.cached_property
    def _came(self) -> tuple[array[int], array[int]]:
        until = array("q", accumulate(reversed(self._by), min))
        until.reverse()
        return array("q", accumulate(self._after, max)), until


def _within(after: array[int], by: array[int], between: tuple[int, int]) -> tuple[int, int]:
    last = max(bisect.bisect_left(after, between[1]) - 1, 0)
    return min(max(bisect.bisect_right(by, between[0]) - 1, 0), last), last
