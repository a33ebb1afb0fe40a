"""What the chains of a table of nf_tables are called at each moment.

A chain that is renamed has its new name in all rules that jump to it at once, and the kernel tells of the chain
alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from iptrec.decode import nft_changes
from iptrec.decode.rulesets import jumps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.decode.nft_changes import Edit
    from iptrec.decode.rulesets.types import Rule


class Said(NamedTuple):
    """A rule's text at some moment; ``chains``: by the names of that moment, their handles."""

    rule: Rule
    chains: Mapping[str, int | None]

    def at(self, names: Mapping[int | None, str]) -> Rule:
        """Its text at another moment; ``names``: of chains then, by their handles, if they have others."""
        if not names:
            return self.rule
        now = {one: names.get(self.chains.get(one), one) for one in jumps.chains(self.rule)}
        return jumps.in_new_names(self.rule, {old: new for old, new in now.items() if old != new})


class Names:
    """Those of one table, while what the kernel tells of it is read; ``table``: its handle.

    ``replaced``: how often rules were replaced since then, by their handles.
    """

    def __init__(self, table: int | None, chains: Mapping[str, int | None]) -> None:
        self.table = table
        self.replaced: dict[int, int] = {}
        self._gone: int | None = None  # the rule that was deleted last
        self.handles = dict(chains)
        self.names = {handle: name for name, handle in chains.items()}

    def edit(self, edit: Edit) -> None:
        """Take over what a message tells."""
        match edit.kind:
            case nft_changes.NEW_TABLE if edit.handle != self.table:
                self.table, self._gone = edit.handle, None
                self.handles, self.names, self.replaced = {}, {}, {}
            case nft_changes.NEW_CHAIN:
                self.handles.pop(self.names.get(edit.handle, ""), None)
                self.handles[edit.chain], self.names[edit.handle] = edit.handle, edit.chain
            case nft_changes.DELETE_CHAIN:
                self.names.pop(self.handles.pop(edit.chain, None), None)
            case nft_changes.NEW_RULE if edit.handle == self._gone:
                self.replaced[edit.handle] = self.replaced.get(edit.handle, 0) + 1
            case nft_changes.DELETE_RULE:
                self._gone = edit.handle
