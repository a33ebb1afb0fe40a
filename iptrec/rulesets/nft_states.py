"""The states of nf_tables' tables over time: those that were listed, and those between them.

A recorder lists the ruleset now and then, and the kernel tells each change. Where all changes between two
listings were received, each state between them is known: which rules it had, by their handles, and their texts
where these were listed before or after, or an equal rule was; `nft_missed` has those of others. What is made of
the messages must in the end be what is listed then; else nobody knows what was between. Without the messages a
table has not changed where both listings tell the same of it. Where none came in the end, the messages alone
tell.

A rule is the same one as long as its handle, that of its table and nft's text are the same: one that is
replaced leaves its handle to the next one. Its words are those of iptables where these were true at any time:
iptables-nft-save prints nothing of a table while it has a rule that it cannot say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.decode.generations import LAST_OF_ALL
from iptrec.rulesets import nft_replay
from iptrec.rulesets.changes import Looks
from iptrec.rulesets.nft_edited import Edited
from iptrec.rulesets.nft_spans import Look, commits_of, foreign_before, spans_of, table_at, up_to
from iptrec.rulesets.nft_words import Words
from iptrec.rulesets.timeline import ANY_TIME, EVER, FROM_THE_FIRST, NEVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.decode.nft_changes import Commit
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import Chain, TableName
    from iptrec.names import I64
    from iptrec.rulesets.changes import Changes
    from iptrec.rulesets.nft_missed import Contents
    from iptrec.rulesets.nft_replay import Table
    from iptrec.rulesets.nft_spans import Span
    from iptrec.rulesets.timeline import Came

# The rules change before the kernel tells it, message by message.
_LAG_NS, _LAG_OF_EDIT_NS = 5_000_000, 10_000


_FROM_THE_FIRST: Final = EVER, EVER, FROM_THE_FIRST


class State(NamedTuple):
    """What a table was from some moment on; ``chains``: None where nobody knows."""

    chains: dict[str, Chain] | None
    after_ns: int
    time_ns: int
    generations: Came = ANY_TIME
    handle: int | None = None


class Followed(NamedTuple):
    """What the kernel told after a listing, up to the next one, at their times.

    ``end_ns``: None where nobody listed what it came to, or something is missing; ``moments`` then has only the
    first transaction that did something to sets, or may have.
    ``generation``: of the first listing. ``moments``: of each transaction the time after which it was, the one
    not after which (epoch, ns), and its generation; shape (n, 3). ``received_ns``: from when
    to when they were told (epoch). ``since``: the times and generations after which the first listing's sets
    came, and not after which.
    """

    begin_ns: int
    end_ns: int | None
    generation: int
    moments: I64
    received_ns: tuple[int, int]
    since: tuple[int, int, Came] = _FROM_THE_FIRST


class States:
    """All tables of a namespace over time, ``tables`` by name.

    ``missed``: rules that no listing has, see `nft_missed`.
    """

    def __init__(
        self, looks: Sequence[Look], changes: Changes | None, missed: Contents | None = None
    ) -> None:
        commits = commits_of(changes)
        looks = [one.of_one_moment(commits) for one in looks]
        self._first = looks[:1]
        self._commits = commits
        self._lossless = changes is not None and changes.lost_ns is None
        listings = [one.listing for one in looks if one.listing is not None]
        self._words = Words(listings)
        looks = [*looks, *_after_all(looks, changes)]
        self._spans = list(spans_of(looks, commits))
        self._early = [up_to(one, commits) for one in self._first]
        self._foreign = [each for one in self._first for each in foreign_before(one, commits)]
        self._before = {edit.table: one for one in self._foreign for edit in one.edits}
        until = [one.time_ns for one in looks[1:]]
        until += (one.received_ns[1] for span in self._spans for one in span.commits or ())
        until += (one.received_ns[1] for one in self._foreign)
        self._looks = Looks() if changes is None or not until else changes.looks(max(until))
        edited = dict.fromkeys(table for span in self._spans for table in span.edits)
        self.tables = list(dict.fromkeys(name for one in listings for name in one.chains))
        self.tables += [one for one in {**self._before, **edited} if one not in self.tables]
        self._edited = {
            name: Edited(
                name,
                [*(self._early if name in self._before else ()), *self._spans],
                listings,
                self._words,
                (missed or {}).get(name, {}),
            )
            for name in {**self._before, **edited}
        }

    def of(self, table: TableName) -> Iterator[State]:
        """All states of a table from its first one on; one that is gone has no chains."""
        there = False
        for exists, state in self._all(table):
            there = there or exists
            if there or state.chains is None:
                yield state

    def followed(self) -> Iterator[Followed]:
        """All listings of which the numbers are known, with what the kernel told after them."""
        for span in self._spans:
            if span.commits is None or span.end.listing is None:
                yield from self._open(span.begin, span.looks)
            elif span.begin.generation is not None:
                yield self._told(span.begin, span.end.time_ns, span.commits, span.looks)
        for last in [self._spans[-1].end] if self._spans else self._first:
            yield from self._open(last, [last])

    def _open(self, begin: Look, looks: Sequence[Look]) -> Iterator[Followed]:
        """A listing after which nobody knows all, up to the next transaction that did something to sets."""
        if begin.listing is None or begin.generation is None:
            return
        number, told_ns = begin.generation + 1, begin.time_ns
        while (next_one := self._commits.get(number)) is not None and not next_one.of_sets:
            number, told_ns = number + 1, next_one.received_ns[1]
        told = self._told(begin, None, [] if next_one is None else [next_one], looks)
        newest = max([self._looks.newest, *self._commits])
        if next_one is None and not (self._lossless and newest < number):  # it is missing
            told = told._replace(moments=np.array([[told_ns, NEVER, number]], np.int64))
        yield told

    def _told(
        self, begin: Look, end_ns: int | None, commits: Sequence[Commit], looks: Sequence[Look]
    ) -> Followed:
        received = [one.received_ns for one in commits] or [(0, -1)]
        return Followed(
            begin.time_ns,
            end_ns,
            begin.generation or 0,
            self._moments_of(looks, commits),
            (received[0][0], received[-1][1]),
            self._since(begin),
        )

    def _since(self, begin: Look) -> tuple[int, int, Came]:
        foreign = [one for one in self._foreign if one.of_sets]
        if not foreign or begin is not self._first[0]:
            return _FROM_THE_FIRST
        return self._moment(foreign[-1], self._first)

    def _moments_of(self, looks: Sequence[Look], commits: Sequence[Commit]) -> I64:
        each = (self._moment(one, looks) for one in commits)
        numbers = (number for after, by, came in each for number in (max(after, EVER), by, came[1]))
        return np.fromiter(numbers, np.int64, 3 * len(commits)).reshape(-1, 3)

    def _all(self, table: TableName) -> Iterator[tuple[bool, State]]:
        for look, early in zip(self._first, self._early, strict=True):
            if table in self._before:
                yield False, State(None, *_FROM_THE_FIRST)
                yield from self._before_listed(table, look, early)
            elif table not in look.torn:
                exists, state = self._listed(table, look, look)
                yield exists, State(state.chains, *_FROM_THE_FIRST, state.handle)
        for span in self._spans:
            if not span.commits and (span.commits is None or span.end.listing is None):
                yield from self._between(table, span)
            elif span.end.listing is None:
                yield from self._unlisted(table, span, span.commits)
            else:
                yield from self._followed(table, span, span.commits)

    def _before_listed(
        self, table: TableName, look: Look, early: Span
    ) -> Iterator[tuple[bool, State]]:
        """What the kernel told up to the first listing, if it comes to that; else that alone."""
        edits, commits = early.edits.get(table, {}), early.commits or ()
        steps = _steps(table, early)
        known = table_at(look, table)
        if known == nft_replay.UNKNOWN or (steps and steps[-1] == known):
            for number, step in zip(edits, steps, strict=True):
                yield self._made(table, step, commits[number], early)
        elif table in look.torn:
            yield self._made(table, known, self._before[table], early)
        else:
            exists, state = self._listed(table, look, look)
            since = self._moment(self._before[table], self._first)
            yield exists, State(state.chains, *since, state.handle)

    def _listed(self, table: TableName, look: Look, before: Look) -> tuple[bool, State]:
        """What was found; the table was another one ``before``."""
        generations = _came(before, look)
        behind = self._looks.behind(generations[0])
        after = look.after_ns if behind is None else behind
        if look.listing is None or table in look.torn:
            return False, State(None, after, look.time_ns, generations)
        chains = self._words.chains(look.listing, table)
        handle = look.listing.handles.get(table)
        there = table in look.listing.chains
        return there, State(chains, after, look.time_ns, generations, handle)

    def _between(self, table: TableName, span: Span) -> Iterator[tuple[bool, State]]:
        """What listings alone tell: a table that they tell the same of has not changed between them.

        One that differs may have been something else in between, where there was more than one transaction.
        """
        last, unknown = span.begin, None
        for look in span.looks:
            if look.listing is None:
                unknown = unknown or look
                continue
            if unknown is None and _are_between(last, look):
                unknown = look._replace(listing=None)
            told = last.listing is not None and table in last.listing.handles
            if unknown and not (told and _alike(table, last.listing, look.listing)):
                yield self._listed(table, unknown, last)
            yield self._listed(table, look, last)
            last, unknown = look, None
        if unknown:
            yield self._listed(table, unknown, last)

    def _followed(
        self, table: TableName, span: Span, commits: Sequence[Commit]
    ) -> Iterator[tuple[bool, State]]:
        """What the kernel told, if it comes to what is listed in the end."""
        edits = span.edits.get(table, {})
        if not edits and _alike(table, span.begin.listing, span.end.listing):
            return
        touching = [commits[number] for number in edits]
        begin, end = self._begin(table, span), table_at(span.end, table)
        steps = list(nft_replay.replayed(begin, edits.values()))
        if [begin, *steps][-1] == end:
            for commit, step in zip(touching, steps, strict=True):
                yield self._made(table, step, commit, span)
            return
        if touching:
            yield False, State(None, *self._moment(touching[0], span.looks))
        yield self._listed(table, span.end, span.begin)

    def _unlisted(
        self, table: TableName, span: Span, commits: Sequence[Commit]
    ) -> Iterator[tuple[bool, State]]:
        """What the kernel told, up to what nobody knows, if that followed and no listing did."""
        edits = span.edits.get(table, {})
        steps = nft_replay.replayed(self._begin(table, span), edits.values())
        for number, step in zip(edits, steps, strict=True):
            yield self._made(table, step, commits[number], span)
        last, time_ns = commits[-1].generation, span.end.time_ns
        if time_ns < NEVER and not (self._lossless and self._looks.newest <= last):
            yield False, State(None, time_ns, time_ns, (last, LAST_OF_ALL))
        elif self._looks.newest > last:
            yield False, State(None, commits[-1].received_ns[1], NEVER, (last, LAST_OF_ALL))

    def _begin(self, table: TableName, span: Span) -> Table:
        """What a table was at the first listing of a span."""
        begin = table_at(span.begin, table)
        if table not in span.begin.torn or begin != nft_replay.UNKNOWN:
            return begin
        return [begin, *(step for one in self._early for step in _steps(table, one))][-1]

    def _made(
        self, table: TableName, step: Table, commit: Commit, span: Span
    ) -> tuple[bool, State]:
        """What a commit made of a table."""
        moment = self._moment(commit, span.looks)
        if step == nft_replay.UNKNOWN:
            return False, State(None, *moment)
        exists = step != nft_replay.GONE
        chains = self._edited[table].chains(step, span.number)
        return exists, State(chains, *moment, step.handle if exists else None)

    def _moment(self, commit: Commit, looks: Sequence[Look]) -> tuple[int, int, Came]:
        """After which time a commit was, and not after which; the same of generations."""
        received, told = commit.received_ns
        after = self._looks.behind(commit.generation - 1)
        if after is None:
            recorded = min(received, *(one.after_ns for one in looks))
            after = max(self._looks.not_before(received) or recorded, recorded)
            after -= _LAG_NS + _LAG_OF_EDIT_NS * len(commit.edits)
        return after, told, (commit.generation - 1, commit.generation)


def _after_all(looks: Sequence[Look], changes: Changes | None) -> Iterator[Look]:
    """What nobody listed any more, if events met rules that came after the last listing."""
    if changes is None or not looks or looks[-1].listing is None or looks[-1].generation is None:
        return
    if changes.are_after(looks[-1].generation):
        yield Look(None, looks[-1].time_ns, NEVER)


def _are_between(one: Look, other: Look) -> bool:
    """Whether there were rulesets between two that were listed."""
    first, last = one.generation, other.generation
    return first is not None and last is not None and last - first > 1


def _came(before: Look, look: Look) -> Came:
    """After which generation came what was found, and after which not."""
    after, until = ANY_TIME
    return (
        after if before.generation is None else before.generation,
        until if look.generation is None else look.generation,
    )


def _steps(table: TableName, early: Span) -> list[Table]:
    """A table after each of its commits before the first listing, by these alone."""
    return list(nft_replay.replayed(nft_replay.UNKNOWN, early.edits.get(table, {}).values()))


def _alike(table: TableName, before: Listing | None, after: Listing | None) -> bool:
    """Whether both tell the same rules of the same table, or have none of that name."""
    if before is None or after is None:
        return False
    same = before.handles.get(table) == after.handles.get(table)
    return same and before.chains.get(table) == after.chains.get(table)
