"""The listings of nf_tables' ruleset, and all transactions that the kernel told of between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from iptrec.decode import nft_changes
from iptrec.rulesets import nft_replay

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.decode.nft_changes import Commit, Edit
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import TableName
    from iptrec.rulesets.changes import Changes
    from iptrec.rulesets.nft_replay import Table


class Look(NamedTuple):
    """What was found at one moment; ``listing``: None where the ruleset was gone before it was listed.

    ``generation``: the number of the ruleset that is listed, None where it was not recorded.
    """

    listing: Listing | None
    after_ns: int
    time_ns: int
    generation: int | None = None


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


def table_at(look: Look, table: TableName) -> Table:
    """A table as it was found."""
    return nft_replay.GONE if look.listing is None else nft_replay.of_listing(look.listing, table)
