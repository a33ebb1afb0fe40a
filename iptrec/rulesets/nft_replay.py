"""What each table of nf_tables was after each commit, by the handles of its rules.

A listing tells the rules of one moment, the kernel's messages what was done to them after it. Handles of tables
are never given again in a namespace, those of rules never again in their table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode import nft_changes
from iptrec.decode.rulesets import nft_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iptrec.decode.nft_changes import Commit, Edit
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import Base, TableName

_DORMANT: Final = 1  # NFT_TABLE_F_DORMANT
# enum nf_inet_hooks, nf_arp_hooks, nf_dev_hooks
_INET: Final = dict(
    enumerate(("prerouting", "input", "forward", "output", "postrouting", "ingress"))
)
_HOOKS: Final = {
    "arp": dict(enumerate(("input", "output", "forward"))),
    "netdev": dict(enumerate(("ingress", "egress"))),
}


class Shape(NamedTuple):
    """A chain; its rules by their handles."""

    policy: str | None
    base: Base | None
    rules: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table's chains; ``handle``: its own, None where nobody knows it. One that is gone has no chains."""

    handle: int | None
    chains: dict[str, Shape]


GONE: Final = Table(0, {})


class CannotFollowError(Exception):
    """A message does not fit what the table was before it."""


def of_listing(listing: Listing, table: TableName) -> Table:
    """A table as it was listed."""
    if table not in listing.chains:
        return GONE
    shapes = {
        name: Shape(one.policy, one.base, tuple(rule.handle for rule in one.rules))
        for name, one in listing.chains[table].items()
    }
    return Table(listing.handles.get(table), shapes)


def replayed(table: Table, name: TableName, commits: Iterable[Commit]) -> Iterator[Table]:
    """The table after each of some commits. Raises `CannotFollowError`."""
    for commit in commits:
        table = _after(table, [one for one in commit.edits if one.table == name])
        yield table


def _after(table: Table, edits: Iterable[Edit]) -> Table:
    changing = _Changing(table)
    for edit in edits:
        changing.edit(edit)
    return changing.whole()


class _Changing:
    """A table while a commit is read."""

    def __init__(self, table: Table) -> None:
        self._handle = table.handle
        self._chains = dict(table.chains)
        self._rules: dict[str, _Rules] = {}

    def edit(self, edit: Edit) -> None:
        """Take over what a message tells."""
        match edit.kind:
            case nft_changes.NEW_TABLE:
                if edit.flags & _DORMANT or (self._chains and edit.handle != self._handle):
                    raise CannotFollowError
                self._handle = edit.handle
            case nft_changes.DELETE_TABLE:
                self._handle, self._chains, self._rules = GONE.handle, {}, {}
            case nft_changes.NEW_CHAIN:
                before = self._chains.get(edit.chain)
                self._chains[edit.chain] = Shape(*_attached(edit), before.rules if before else ())
            case nft_changes.DELETE_CHAIN:
                self._chains.pop(edit.chain, None)
                self._rules.pop(edit.chain, None)
            case _:
                self._of(edit.chain).change(edit)

    def _of(self, chain: str) -> _Rules:
        if chain not in self._chains:
            raise CannotFollowError
        if chain not in self._rules:
            self._rules[chain] = _Rules(self._chains[chain].rules)
        return self._rules[chain]

    def whole(self) -> Table:
        """The table after it."""
        for name, rules in self._rules.items():
            self._chains[name] = self._chains[name]._replace(rules=rules.whole())
        return Table(self._handle, self._chains)


class _Rules:
    """The handles of a chain's rules while a commit is read.

    Each new rule names the one before it, which may be told later; the first and the last one name none
    (nf_tables_rule_notify).
    """

    def __init__(self, rules: Iterable[int | None]) -> None:
        self._rules = list(rules)
        self._waiting: dict[int, Edit] = {}  # by the rule before
        self._deleted_at: int | None = None

    def change(self, edit: Edit) -> None:
        """A rule came or went."""
        if edit.kind == nft_changes.DELETE_RULE:
            if edit.handle not in self._rules:
                raise CannotFollowError
            self._deleted_at = self._rules.index(edit.handle)
            del self._rules[self._deleted_at]
        elif edit.position is None:
            self._put(self._end(edit.flags), edit)
        elif edit.position in self._rules:
            self._put(self._rules.index(edit.position) + 1, edit)
        else:
            self._waiting[edit.position] = edit

    def _end(self, flags: int) -> int:
        if flags & nft_changes.REPLACE and self._deleted_at is not None:
            return self._deleted_at
        return len(self._rules) if flags & nft_changes.APPEND else 0

    def _put(self, at: int, edit: Edit) -> None:
        self._rules.insert(at, edit.handle)
        if edit.handle in self._waiting:
            self._put(at + 1, self._waiting.pop(edit.handle))

    def whole(self) -> tuple[int | None, ...]:
        """All of them, in order."""
        if self._waiting:
            raise CannotFollowError
        return tuple(self._rules)


def _attached(edit: Edit) -> tuple[str | None, Base | None]:
    """Policy and hook of a chain, as a listing tells them."""
    if edit.hook is None:
        return None, None
    number, priority, type_, accepts = edit.hook
    name = _HOOKS.get(edit.table[0], _INET).get(number)
    return nft_json.attached(
        {
            "family": edit.table[0],
            "hook": name,
            "prio": priority,
            "type": type_,
            "policy": "accept" if accepts else "drop",
        }
    )
