"""What each table of nf_tables was after each commit, by the handles of its rules.

A listing tells the rules of one moment, the kernel's messages what was done to them after it. A table that is
deleted and made anew is known by the messages alone. Handles of tables are never given again in a namespace,
those of rules never again in their table, but to what replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode import nft_changes
from iptrec.decode.rulesets import nft_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.decode.nft_changes import Edit
    from iptrec.decode.rulesets.nft_json import Listing
    from iptrec.decode.rulesets.types import Base, TableName

_WHAT: Final = {
    nft_changes.NEW_TABLE: "table", nft_changes.DELETE_TABLE: "table",
    nft_changes.NEW_CHAIN: "chain", nft_changes.DELETE_CHAIN: "chain",
    nft_changes.NEW_RULE: "rule", nft_changes.DELETE_RULE: "rule",
}  # fmt: skip
_NEW: Final = (nft_changes.NEW_TABLE, nft_changes.NEW_CHAIN, nft_changes.NEW_RULE)
_ENDS: Final = 0  # the kernel's handles begin with 1
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
    """A chain; it and its rules by their handles."""

    policy: str | None
    base: Base | None
    rules: tuple[int | None, ...]
    handle: int | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table's chains; ``handle``: its own, None where nobody knows it. One that is gone has no chains.

    ``replaced``: how often rules were replaced since the listing, by their handles. ``dormant``: no packet
    meets its chains, wherever they are attached.
    """

    handle: int | None
    chains: dict[str, Shape]
    replaced: dict[int, int] = field(default_factory=dict, compare=False)
    dormant: bool = False


GONE: Final = Table(0, {})
UNKNOWN: Final = Table(None, {})


class CannotFollowError(Exception):
    """A message does not fit what the table was before it."""


def of_listing(listing: Listing, table: TableName) -> Table:
    """A table as it was listed."""
    if table not in listing.chains:
        return GONE
    bases = listing.dormant.get(table, {})
    shapes = {
        name: Shape(
            one.policy,
            bases.get(name, one.base),
            tuple(rule.handle for rule in one.rules),
            one.handle,
        )
        for name, one in listing.chains[table].items()
    }
    return Table(listing.handles.get(table), shapes, dormant=table in listing.dormant)


def fits(table: Table, before: Iterable[Edit], after: Iterable[Edit]) -> bool:
    """Whether a table can be what some edits left, and others found."""
    there = {("table", table.handle)}
    for shape in table.chains.values():
        there |= {("chain", shape.handle), *(("rule", one) for one in shape.rules)}
    left: dict[tuple[str, int | None], bool] = {}
    for edit in before:
        if edit.kind == nft_changes.DELETE_TABLE:
            left.clear()
        left[_WHAT[edit.kind], edit.handle] = edit.kind in _NEW
    met: dict[tuple[str, int | None], bool] = {}
    for edit in after:
        # A message of a new table or chain may be of one that was there: of its flags, name or policy.
        if edit.kind == nft_changes.NEW_RULE or edit.kind not in _NEW:
            met.setdefault((_WHAT[edit.kind], edit.handle), edit.kind not in _NEW)
        if edit.kind == nft_changes.DELETE_TABLE:
            break
    return all((one in there) == known for told in (left, met) for one, known in told.items())


def replayed(table: Table, commits: Iterable[Sequence[Edit]]) -> Iterator[Table]:
    """The table after each commit, by what that did to it; `UNKNOWN` where that does not fit."""
    for edits in commits:
        table = _after(table, edits)
        yield table


def _after(table: Table, edits: Sequence[Edit]) -> Table:
    deleted = [at for at, one in enumerate(edits) if one.kind == nft_changes.DELETE_TABLE]
    if deleted:  # what it was before does not matter
        table, edits = GONE, edits[deleted[-1] + 1 :]
    if table.handle is None:
        return UNKNOWN
    try:
        changing = _Changing(table)
        for edit in edits:
            changing.edit(edit)
        return changing.whole()
    except CannotFollowError:
        return UNKNOWN


class _Changing:
    """A table while a commit is read; its chains by their handles, for one may get another name."""

    def __init__(self, table: Table) -> None:
        self._handle = table.handle
        self._chains = {one.handle: (name, one) for name, one in table.chains.items()}
        self._handles = {name: one.handle for name, one in table.chains.items()}
        self._rules: dict[int | None, _Rules] = {}
        self._replaced = table.replaced
        self._dormant = table.dormant
        if None in self._chains or len(self._chains) < len(self._handles):
            raise CannotFollowError

    def edit(self, edit: Edit) -> None:
        """Take over what a message tells."""
        match edit.kind:
            case nft_changes.NEW_TABLE:
                if edit.flags < 0 or (self._chains and edit.handle != self._handle):
                    raise CannotFollowError
                self._handle, self._dormant = edit.handle, bool(edit.flags & _DORMANT)
            case nft_changes.NEW_CHAIN:
                self._came(edit)
            case nft_changes.DELETE_CHAIN:
                handle = self._handles.pop(edit.chain, None)
                self._chains.pop(handle, None)
                self._rules.pop(handle, None)
            case _:
                if self._of(edit.chain).change(edit):
                    times = self._replaced.get(edit.handle, 0)
                    self._replaced = {**self._replaced, edit.handle: times + 1}

    def _came(self, edit: Edit) -> None:
        """A chain is new, or has another name or policy."""
        name, before = self._chains.get(edit.handle, (None, None))
        if name is not None:
            del self._handles[name]
        if edit.chain in self._handles:
            raise CannotFollowError
        self._handles[edit.chain] = edit.handle
        shape = Shape(*_attached(edit), before.rules if before else (), edit.handle)
        self._chains[edit.handle] = edit.chain, shape

    def _of(self, chain: str) -> _Rules:
        if chain not in self._handles:
            raise CannotFollowError
        handle = self._handles[chain]
        if handle not in self._rules:
            self._rules[handle] = _Rules(self._chains[handle][1].rules)
        return self._rules[handle]

    def whole(self) -> Table:
        """The table after it."""
        for handle, rules in self._rules.items():
            name, shape = self._chains[handle]
            self._chains[handle] = name, shape._replace(rules=rules.whole())
        return Table(self._handle, dict(self._chains.values()), self._replaced, self._dormant)


class _Rules:
    """The handles of a chain's rules while a commit is read: a ring, with `_ENDS` before the first one.

    Each new rule names the one before it, which may be told later; the first and the last one name none
    (nf_tables_rule_notify). One that replaces another has its handle, and is told after the end of that.
    """

    def __init__(self, rules: Iterable[int | None]) -> None:
        self._next = {_ENDS: _ENDS}
        self._before = {_ENDS: _ENDS}
        self._waiting: dict[int, int] = {}  # by the rule before
        self._gap = _ENDS  # what was before the rule that was deleted last
        self._gone = _ENDS  # that rule
        for one in rules:
            self._insert(self._before[_ENDS], one)

    def change(self, edit: Edit) -> bool:
        """A rule came or went; whether it replaced another one."""
        if edit.kind == nft_changes.DELETE_RULE:
            self._delete(edit.handle)
            return False
        if edit.handle == self._gone:
            self._insert(self._gap, edit.handle)
            self._gone = _ENDS
            return True
        after = self._end(edit.flags) if edit.position is None else edit.position
        if after not in self._next:
            self._waiting[after] = edit.handle
            return False
        new: int | None = edit.handle
        while new is not None:
            self._insert(after, new)
            after, new = new, self._waiting.pop(new, None)
        return False

    def _end(self, flags: int) -> int:
        """Behind which rule one comes that names none.

        Linux 5.10 tells neither flags nor positions: the place of a rule in a chain with others is not known.
        """
        if flags & nft_changes.REPLACE:
            return self._gap
        if flags & nft_changes.APPEND:
            return self._before[_ENDS]
        if not flags & nft_changes.CREATE and self._next[_ENDS] != _ENDS:
            raise CannotFollowError
        return _ENDS

    def _insert(self, after: int, new: int | None) -> None:
        if new is None or new in self._next:
            raise CannotFollowError
        behind = self._next[after]
        self._next[after] = self._before[behind] = new
        self._next[new], self._before[new] = behind, after

    def _delete(self, one: int) -> None:
        if one == _ENDS or one not in self._next:
            raise CannotFollowError
        behind, self._gap = self._next.pop(one), self._before.pop(one)
        self._next[self._gap], self._before[behind] = behind, self._gap
        self._gone = one

    def whole(self) -> tuple[int, ...]:
        """All of them, in order."""
        if self._waiting:
            raise CannotFollowError
        found = []
        at = _ENDS
        while (at := self._next[at]) != _ENDS:
            found.append(at)
        return tuple(found)


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
