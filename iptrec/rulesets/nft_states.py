"""The states of nf_tables' tables over time: those that were listed, and those between them.

A recorder lists the ruleset now and then, and the kernel tells each change. Where all changes between two
listings were received, each state between them is known: which rules it had, by their handles, and their texts
where these were listed before or after, or an equal rule was; `nft_missed` has those of others. What is made of
the messages must in the end be what is listed then; else nobody knows what was between. Without the messages a
table has not changed where both listings tell the same of it. Where none came in the end, the messages alone
tell.

A rule is the same one as long as its handle, that of its table and nft's text are the same. Its words are those
of iptables where these were true at any time: iptables-nft-save prints nothing of a table while it has a rule
that it cannot say.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from iptrec.decode import nft_changes
from iptrec.decode.generations import LAST_OF_ALL
from iptrec.decode.rulesets import jumps
from iptrec.decode.rulesets.types import Chain, Rule
from iptrec.rulesets import nft_replay
from iptrec.rulesets.changes import Looks
from iptrec.rulesets.nft_names import Names, Said
from iptrec.rulesets.nft_replay import CannotFollowError
from iptrec.rulesets.nft_words import Words
from iptrec.rulesets.timeline import ANY_TIME, EVER, FROM_THE_FIRST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from iptrec.decode.nft_changes import Commit, Edit
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import TableName
    from iptrec.names import I64
    from iptrec.rulesets.changes import Changes
    from iptrec.rulesets.nft_missed import Contents
    from iptrec.rulesets.nft_replay import Table
    from iptrec.rulesets.timeline import Came

_UNLISTED: Final = Rule("", None, None, goto=False, comment=None, conditional=True, syntax="nft")
# The rules change before the kernel tells it, message by message.
_LAG_NS, _LAG_OF_EDIT_NS = 5_000_000, 10_000
_Handles = tuple[int, int | None]  # of the table, and of the rule


class Look(NamedTuple):
    """What was found at one moment; ``listing``: None where the ruleset was gone before it was listed.

    ``generation``: the number of the ruleset that is listed, None where it was not recorded.
    """

    listing: Listing | None
    after_ns: int
    time_ns: int
    generation: int | None = None


class State(NamedTuple):
    """What a table was from some moment on; ``chains``: None where nobody knows."""

    chains: dict[str, Chain] | None
    after_ns: int
    time_ns: int
    generations: Came = ANY_TIME
    handle: int | None = None


class Followed(NamedTuple):
    """What the kernel told between two listings, at their times: all of it.

    ``generation``: of the first listing. ``moments``: of each transaction the time after which it was, the one
    not after which (epoch, ns), and its generation; shape (n, 3). ``received_ns``: from when
    to when they were told (epoch).
    """

    begin_ns: int
    end_ns: int
    generation: int
    moments: I64
    received_ns: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Span:
    """What was found after ``begin``, up to the next listing of which the generation is known.

    ``commits``: all that came up to it, None where some may be missing.
    """

    begin: Look
    looks: Sequence[Look]
    commits: Sequence[Commit] | None
    edits: Mapping[TableName, Mapping[int, list[Edit]]]  # what each commit did to a table

    @classmethod
    def of(cls, begin: Look, looks: Sequence[Look], commits: Sequence[Commit] | None) -> Self:
        edits: dict[TableName, dict[int, list[Edit]]] = {}
        for number, commit in enumerate(commits or ()):
            for edit in commit.edits:
                edits.setdefault(edit.table, {}).setdefault(number, []).append(edit)
        return cls(begin, looks, commits, edits)

    @property
    def end(self) -> Look:
        return self.looks[-1]


class States:
    """All tables of a namespace over time, ``tables`` by name.

    ``missed``: rules that no listing has, see `nft_missed`.
    """

    def __init__(
        self, looks: Sequence[Look], changes: Changes | None, missed: Contents | None = None
    ) -> None:
        self._first = looks[:1]
        listings = [one.listing for one in looks if one.listing is not None]
        self._words = Words(listings)
        self._spans = list(_spans(looks, _commits(changes)))
        until = [one.time_ns for one in looks[1:]]
        until += (one.received_ns[1] for span in self._spans for one in span.commits or ())
        self._looks = Looks() if changes is None or not until else changes.looks(max(until))
        edited = dict.fromkeys(table for span in self._spans for table in span.edits)
        self.tables = list(dict.fromkeys(name for one in listings for name in one.chains) | edited)
        self._edited = {
            name: _Edited(name, self._spans, listings, self._words, (missed or {}).get(name, {}))
            for name in edited
        }

    def of(self, table: TableName) -> Iterator[State]:
        """All states of a table from its first one on; one that is gone has no chains."""
        there = False
        for exists, state in self._all(table):
            there = there or exists
            if there or state.chains is None:
                yield state

    def followed(self) -> Iterator[Followed]:
        """The listings between which the kernel told all changes."""
        for span in self._spans:
            if span.commits is None or span.begin.generation is None or span.end.listing is None:
                continue
            received = [one.received_ns for one in span.commits] or [(0, -1)]
            yield Followed(
                span.begin.time_ns,
                span.end.time_ns,
                span.begin.generation,
                self._moments_of(span, span.commits),
                (received[0][0], received[-1][1]),
            )

    def _moments_of(self, span: _Span, commits: Sequence[Commit]) -> I64:
        each = (self._moment(one, span) for one in commits)
        numbers = (number for after, by, came in each for number in (max(after, EVER), by, came[1]))
        return np.fromiter(numbers, np.int64, 3 * len(commits)).reshape(-1, 3)

    def _all(self, table: TableName) -> Iterator[tuple[bool, State]]:
        for look in self._first:
            exists, state = self._listed(table, look, look)
            yield exists, state._replace(after_ns=EVER, time_ns=EVER, generations=FROM_THE_FIRST)
        for span in self._spans:
            if not span.commits and (span.commits is None or span.end.listing is None):
                yield from self._between(table, span)
            elif span.end.listing is None:
                yield from self._unlisted(table, span, span.commits)
            else:
                yield from self._followed(table, span, span.commits)

    def _listed(self, table: TableName, look: Look, before: Look) -> tuple[bool, State]:
        """What was found; the table was another one ``before``."""
        generations = _came(before, look)
        behind = self._looks.behind(generations[0])
        after = look.after_ns if behind is None else behind
        if look.listing is None:
            return False, State(None, after, look.time_ns, generations)
        chains = self._words.chains(look.listing, table)
        handle = look.listing.handles.get(table)
        there = table in look.listing.chains
        return there, State(chains, after, look.time_ns, generations, handle)

    def _between(self, table: TableName, span: _Span) -> Iterator[tuple[bool, State]]:
        """What listings alone tell: a table that they tell the same of has not changed between them."""
        last, unknown = span.begin, None
        for look in span.looks:
            if look.listing is None:
                unknown = unknown or look
                continue
            told = last.listing is not None and table in last.listing.handles
            if unknown and not (told and _alike(table, last.listing, look.listing)):
                yield self._listed(table, unknown, last)
            yield self._listed(table, look, last)
            last, unknown = look, None
        if unknown:
            yield self._listed(table, unknown, last)

    def _followed(
        self, table: TableName, span: _Span, commits: Sequence[Commit]
    ) -> Iterator[tuple[bool, State]]:
        """What the kernel told, if it comes to what is listed in the end."""
        edits = span.edits.get(table, {})
        if not edits and _alike(table, span.begin.listing, span.end.listing):
            return
        touching = [commits[number] for number in edits]
        begin, end = (_table(look, table) for look in (span.begin, span.end))
        steps = _steps(begin, edits.values())
        if len(steps) == len(touching) and [begin, *steps][-1] == end:
            for commit, step in zip(touching, steps, strict=True):
                yield self._made(table, step, commit, span)
            return
        if touching:
            yield False, State(None, *self._moment(touching[0], span))
        yield self._listed(table, span.end, span.begin)

    def _unlisted(
        self, table: TableName, span: _Span, commits: Sequence[Commit]
    ) -> Iterator[tuple[bool, State]]:
        """What the kernel told, up to what nobody knows, where no listing followed."""
        edits = span.edits.get(table, {})
        steps = _steps(_table(span.begin, table), edits.values())
        for number, step in zip(edits, steps, strict=False):
            yield self._made(table, step, commits[number], span)
        last, time_ns = commits[-1].generation, span.end.time_ns
        unknown = State(None, time_ns, time_ns, (last, LAST_OF_ALL))
        if len(steps) < len(edits):
            unknown = State(None, *self._moment(commits[[*edits][len(steps)]], span))
        yield False, unknown

    def _made(
        self, table: TableName, step: Table, commit: Commit, span: _Span
    ) -> tuple[bool, State]:
        """What a commit made of a table."""
        exists = step != nft_replay.GONE
        handle = step.handle if exists else None
        return exists, State(self._edited[table].chains(step), *self._moment(commit, span), handle)

    def _moment(self, commit: Commit, span: _Span) -> tuple[int, int, Came]:
        """After which time a commit was, and not after which; the same of generations."""
        received, told = commit.received_ns
        after = self._looks.behind(commit.generation - 1)
        if after is None:
            recorded = min(received, *(one.after_ns for one in span.looks))
            after = max(self._looks.not_before(received) or recorded, recorded)
            after -= _LAG_NS + _LAG_OF_EDIT_NS * len(commit.edits)
        return after, told, (commit.generation - 1, commit.generation)


def _commits(changes: Changes | None) -> dict[int, Commit]:
    """By their generations; from a loss on none can be relied on."""
    if changes is None:
        return {}
    lost = changes.lost_ns
    return {
        one.generation: one
        for one in nft_changes.commits(changes.datagrams())
        if lost is None or one.received_ns[1] < lost
    }


def _spans(looks: Sequence[Look], commits: dict[int, Commit]) -> Iterator[_Span]:
    begin = 0
    for at, look in enumerate(looks):
        if at and look.listing is not None and look.generation is not None:
            told = _all_of(looks[begin], look, commits)
            yield _Span.of(looks[begin], looks[begin + 1 : at + 1], told)
            begin = at
    if begin + 1 < len(looks):
        yield _Span.of(looks[begin], looks[begin + 1 :], _last_of(looks[begin:], commits))


def _all_of(begin: Look, end: Look, commits: dict[int, Commit]) -> list[Commit] | None:
    """The commits between two listings, None if some are missing."""
    first, last = begin.generation, end.generation
    if first is None or last is None or not 0 <= last - first <= len(commits):
        return None
    found = [commits[one] for one in range(first + 1, last + 1) if one in commits]
    return found if len(found) == last - first else None


def _last_of(looks: Sequence[Look], commits: dict[int, Commit]) -> list[Commit] | None:
    """The commits after the first look, where nobody listed the ruleset any more; None if some are missing."""
    first = looks[0].generation
    if first is None or any(one.listing is not None for one in looks[1:]):
        return None
    told = [one for one in commits.values() if one.received_ns[0] <= looks[-1].time_ns]
    newest = max((one.generation for one in told), default=first)
    if not 0 <= newest - first <= len(commits):
        return None
    found = [commits[one] for one in range(first + 1, newest + 1) if one in commits]
    return found if len(found) == newest - first else None


def _came(before: Look, look: Look) -> Came:
    """After which generation came what was found, and after which not."""
    after, until = ANY_TIME
    return (
        after if before.generation is None else before.generation,
        until if look.generation is None else look.generation,
    )


def _table(look: Look, table: TableName) -> Table:
    return nft_replay.GONE if look.listing is None else nft_replay.of_listing(look.listing, table)


def _steps(begin: Table, commits: Iterable[list[Edit]]) -> list[Table]:
    """The table after each commit, up to one that does not fit."""
    found: list[Table] = []
    if begin.handle is not None:
        with contextlib.suppress(CannotFollowError):
            found.extend(nft_replay.replayed(begin, commits))
    return found


def _alike(table: TableName, before: Listing | None, after: Listing | None) -> bool:
    """Whether both tell the same rules of the same table, or have none of that name."""
    if before is None or after is None:
        return False
    same = before.handles.get(table) == after.handles.get(table)
    return same and before.chains.get(table) == after.chains.get(table)


class _Edited:
    """The rules of a table by their handles: those that were listed, and equal ones."""

    def __init__(
        self,
        name: TableName,
        spans: Sequence[_Span],
        listings: Iterable[Listing],
        words: Words,
        missed: Mapping[object, Rule],
    ) -> None:
        self._said: dict[_Handles, Said] = {}
        self._called: dict[_Handles, str] = {}
        self._renamed: set[_Handles] = set()  # chains that had another name before
        self._known: dict[object, Chain] = {}
        for listing in listings:
            if (table := listing.handles.get(name)) is not None:
                chains = {one.name: one.handle for one in listing.chains[name].values()}
                for called, chain in chains.items():
                    self._call((table, chain), called)
                for handle, rule in words.rules(listing, name):
                    self._said[table, handle] = Said(rule, chains)
        for names, edit in _told(name, spans):
            if edit.kind == nft_changes.NEW_CHAIN and names.table is not None:
                self._call((names.table, edit.handle), edit.chain)
        self._add_equal(name, spans, missed)

    def _call(self, chain: _Handles, name: str) -> None:
        if self._called.setdefault(chain, name) != name:
            self._renamed.add(chain)

    def _add_equal(
        self, name: TableName, spans: Sequence[_Span], missed: Mapping[object, Rule]
    ) -> None:
        """Rules that no listing has, in the words of those of equal content."""
        equal, listed = dict(missed), set(self._said)
        for handles, content, names in _contents(name, spans):
            if content is not None and handles in listed:
                equal[content] = self._said[handles].at(names.names if self._renamed else {})
        for handles, content, names in _contents(name, spans):
            if handles not in listed and (rule := equal.get(content)) is not None:
                jumped = jumps.chains(rule) if self._renamed else ()
                self._said[handles] = Said(rule, {one: names.handles.get(one) for one in jumped})

    def chains(self, table: Table) -> dict[str, Chain]:
        """The chains of a table after a commit; equal ones are the same objects."""
        found = {}
        names = {
            shape.handle: name
            for name, shape in table.chains.items()
            if (table.handle, shape.handle) in self._renamed
        }
        for name, shape in table.chains.items():
            key = table.handle, name, shape, tuple(names.items())
            if key not in self._known:
                rules = tuple(self._rule((table.handle or 0, one), names) for one in shape.rules)
                self._known[key] = Chain(name, shape.policy, rules, shape.base, shape.handle)
            found[name] = self._known[key]
        return found

    def _rule(self, handles: _Handles, names: Mapping[int | None, str]) -> Rule:
        """A rule; without words where nobody has seen them. ``names``: those of chains that were renamed."""
        if (said := self._said.get(handles)) is None:
            return replace(_UNLISTED, handle=handles[1])
        rule = said.at(names)
        return rule if rule.handle == handles[1] else replace(rule, handle=handles[1])


def _contents(name: TableName, spans: Iterable[_Span]) -> Iterator[tuple[_Handles, object, Names]]:
    """What the messages tell of rules, by the handles of their tables and their own."""
    for names, edit in _told(name, spans):
        if edit.kind in (nft_changes.NEW_RULE, nft_changes.DELETE_RULE) and names.table is not None:
            yield (names.table, edit.handle), edit.content, names


def _told(name: TableName, spans: Iterable[_Span]) -> Iterator[tuple[Names, Edit]]:
    """What was told of a table, each with what its chains were called then."""
    for span in spans:
        begin = _table(span.begin, name)
        names = Names(begin.handle, {one: shape.handle for one, shape in begin.chains.items()})
        for edit in (edit for some in span.edits.get(name, {}).values() for edit in some):
            names.edit(edit)
            yield names, edit
