"""Whether rules may hand packets to sockets of other ports than those that they are for: TPROXY."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iptrec.packets.window import Window
    from iptrec.rulesets.grammar import Grammar


class Diverting:
    """Looks at each grammar once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Grammar, bool]] = {}  # by the grammar's id

    def may_be(self, window: Window) -> bool:
        """Whether any rules of a window do."""
        every = {id(one): one for one in window.resolver.grammars}
        return any(map(self._diverts, every.values()))

    def _diverts(self, grammar: Grammar) -> bool:
        key = id(grammar)
        if key not in self._known:
            tables = grammar.ruleset.tables.values()
            rules = (rule for table in tables for chain in table.values() for rule in chain.rules)
            found = any(rule.target == "TPROXY" or "tproxy" in rule.spec for rule in rules)
            self._known[key] = grammar, found
        return self._known[key][1]
