"""The listings of nf_tables' ruleset, and all transactions that the kernel told of between two of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from iptrec.decode import nft_changes
from iptrec.decode.rulesets.nft_json import TAG
from iptrec.rulesets import nft_replay

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from iptrec.decode.nft_changes import Commit, Edit
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import TableName
    from iptrec.rulesets.changes import Changes
    from iptrec.rulesets.nft_replay import Table
    from iptrec.rulesets.nft_told import Told


_BEFORE: Final = -1  # the number of what came before all listings
_OUR_TABLES: Final = "iptrec-"  # kernel.nft.table.name


class Look(NamedTuple):
    """What was found at one moment; ``listing``: None where the ruleset was gone before it was listed.

    ``generation``: the number of the ruleset that is listed, None where it was not recorded. ``since``: that of
    the one when listing began, where it changed meanwhile. ``torn``: the tables that changed then: not listed,
    but with what they came to be, as far as that is known. ``told``: what rules without texts are made of.
    """

    listing: Listing | None
    after_ns: int
    time_ns: int
    generation: int | None = None
    since: int | None = None
    torn: Mapping[TableName, Table] = MappingProxyType({})
    told: Told = MappingProxyType({})

    def of_one_moment(self, commits: Mapping[int, Commit]) -> Look:
        """It with the tables alone that did not change while they were listed."""
        if self.listing is None or self.since is None or self.generation is None:
            return self
        count = self.generation - self.since
        told = range(self.since + 1, self.generation + 1)
        if not 0 <= count <= len(commits) or any(one not in commits for one in told):
            return self._replace(listing=None, generation=None)
        edits: dict[TableName, list[list[Edit]]] = {}
        for at, one in enumerate(told):
            for edit in commits[one].edits:
                edits.setdefault(edit.table, [[] for _ in told])[at].append(edit)
        torn = {table: _came_to_be(self.listing, table, some) for table, some in edits.items()}
        return self._replace(listing=self.listing.without(torn), torn=torn)


@dataclass(frozen=True, slots=True)
class Span:
    """What was found after ``begin``, up to the next listing of which the generation is known.

    ``commits``: all that came up to it, None where some may be missing.
    """

    number: int
    begin: Look
    looks: Sequence[Look]
    commits: Sequence[Commit] | None
    edits: Mapping[TableName, Mapping[int, list[Edit]]]  # what each commit did to a table

    @classmethod
    def of(
        cls, number: int, begin: Look, looks: Sequence[Look], commits: Sequence[Commit] | None
    ) -> Self:
        """With the commits' edits by their tables."""
        edits: dict[TableName, dict[int, list[Edit]]] = {}
        for at, commit in enumerate(commits or ()):
            for edit in commit.edits:
                edits.setdefault(edit.table, {}).setdefault(at, []).append(edit)
        return cls(number, begin, looks, commits, edits)

    @property
    def end(self) -> Look:
        """The listing, if there is one."""
        return self.looks[-1]


def commits_of(changes: Changes | None) -> dict[int, Commit]:
    """By their generations; from a loss on none can be relied on."""
    if changes is None:
        return {}
    lost = changes.lost_ns
    return {
        one.generation: one
        for one in nft_changes.commits(changes.datagrams())
        if lost is None or one.received_ns[1] < lost
    }


def spans_of(looks: Sequence[Look], commits: dict[int, Commit]) -> Iterator[Span]:
    """All of them, in order."""
    begin = 0
    for at, look in enumerate(looks):
        if at and look.listing is not None and look.generation is not None:
            told = _all_of(looks[begin], look, commits)
            yield Span.of(begin, looks[begin], looks[begin + 1 : at + 1], told)
            begin = at
    if begin + 1 < len(looks):
        yield Span.of(begin, looks[begin], looks[begin + 1 :], _last_of(looks[begin:], commits))


def up_to(first: Look, commits: Mapping[int, Commit]) -> Span:
    """What the kernel told before the first listing, as far as nothing of it is missing."""
    told: list[Commit] = []
    number = first.generation
    while number is not None and number in commits:
        told.append(commits[number])
        number -= 1
    begin = Look(None, first.after_ns, first.after_ns)
    return Span.of(_BEFORE, begin, [first], told[::-1])


def foreign_before(first: Look, commits: Mapping[int, Commit]) -> list[Commit]:
    """The commits of others before the first listing: packets may have been traced by then.

    Legacy iptables may trace them before the first of our rules here is in place.
    """
    if first.listing is None or first.generation is None:
        return []
    ours = set(_our_rules(first.listing))
    before = [one for number, one in sorted(commits.items()) if number <= first.generation]
    return [one for one in before if not any(map(partial(_is_ours, ours), one.edits))]


def _our_rules(listing: Listing) -> Iterator[tuple[TableName, int | None]]:
    """The recorder's rules in tables of others, by their tables and handles."""
    for table, chains in listing.chains.items():
        for chain in (chains or {}).values():
            for rule in chain.rules:
                if (rule.comment or "").startswith(TAG):
                    yield table, rule.handle


def _is_ours(rules: Collection[tuple[TableName, int | None]], edit: Edit) -> bool:
    return edit.table[1].startswith(_OUR_TABLES) or (edit.table, edit.handle) in rules


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
    newest = max(commits, default=first)
    if not 0 <= newest - first <= len(commits):
        return None
    found = [commits[one] for one in range(first + 1, newest + 1) if one in commits]
    return found if len(found) == newest - first else None


def table_at(look: Look, table: TableName) -> Table:
    """A table as it was found."""
    if look.listing is None:
        return nft_replay.UNKNOWN
    return look.torn.get(table) or nft_replay.of_listing(look.listing, table)


def _came_to_be(listing: Listing, table: TableName, commits: Sequence[list[Edit]]) -> Table:
    """What a table was after commits during which it was listed; `UNKNOWN` where that is not certain.

    nft lists what was there at one moment (it begins again where the generation changed, nft_cache_update),
    which is after any of the commits: of those that fit, all must come to the same.
    """
    listed = nft_replay.of_listing(listing, table)
    if not listing.whole or (listed.handle is None and listed != nft_replay.GONE):
        return nft_replay.UNKNOWN
    found: list[Table] = []
    for number in range(len(commits) + 1):
        before, after = commits[:number], commits[number:]
        if nft_replay.fits(listed, itertools.chain(*before), itertools.chain(*after)):
            last = [listed, *nft_replay.replayed(listed, after)][-1]
            found += [] if last in found else [last]
    return found[0] if len(found) == 1 else nft_replay.UNKNOWN
