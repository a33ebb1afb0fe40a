"""The listings of nf_tables' ruleset, and all transactions that the kernel told of between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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


_OUR_TABLES: Final = "iptrec-"  # kernel.nft.table.name


class Look(NamedTuple):
    """What was found at one moment; ``listing``: None where the ruleset was gone before it was listed.

    ``generation``: the number of the ruleset that is listed, None where it was not recorded. ``since``: that of
    the one when listing began, where it changed meanwhile. ``torn``: the tables that changed then: not listed.
    """

    listing: Listing | None
    after_ns: int
    time_ns: int
    generation: int | None = None
    since: int | None = None
    torn: frozenset[TableName] = frozenset()

    def of_one_moment(self, commits: Mapping[int, Commit]) -> Look:
        """It with the tables alone that did not change while they were listed."""
        if self.listing is None or self.since is None or self.generation is None:
            return self
        count = self.generation - self.since
        told = range(self.since + 1, self.generation + 1)
        if not 0 <= count <= len(commits) or any(one not in commits for one in told):
            return self._replace(listing=None, generation=None)
        torn = frozenset(edit.table for one in told for edit in commits[one].edits)
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


def foreign_before(first: Look, commits: Mapping[int, Commit]) -> list[Commit]:
    """The commits of others before the first listing, while packets were traced: behind our first one."""
    if first.listing is None or first.generation is None:
        return []
    ours = set(_our_rules(first.listing))
    before = [one for number, one in sorted(commits.items()) if number <= first.generation]
    own = [any(map(partial(_is_ours, ours), one.edits)) for one in before]
    begun = own.index(True) if True in own else 0
    return [one for one, is_own in zip(before[begun:], own[begun:], strict=True) if not is_own]


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
    return nft_replay.GONE if look.listing is None else nft_replay.of_listing(look.listing, table)
