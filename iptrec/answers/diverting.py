"""Whether rules may hand packets to sockets of other ports than those that they are for, or queue them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.names import HOOKS

if TYPE_CHECKING:
    from iptrec.decode.rulesets.types import Chain
    from iptrec.packets.window import Window
    from iptrec.rulesets.grammar import Grammar

_QUEUES: Final = ("NFQUEUE", "QUEUE")
_TOLD_AT: Final = -299  # the priority at which it is told who sends, or a little later
_OUTPUT: Final = HOOKS.index("OUTPUT")


def _is_early(chain: Chain) -> bool:
    base = chain.base
    return base is not None and base.hook == _OUTPUT and base.priority <= _TOLD_AT


class Diverting:
    """Looks at each grammar once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Grammar, bool]] = {}  # by the grammar's id
        self._queueing: dict[int, tuple[Grammar, bool]] = {}

    def may_be(self, window: Window) -> bool:
        """Whether any rules of a window do."""
        every = {id(one): one for one in window.resolver.grammars}
        return any(map(self._diverts, every.values()))

    def may_queue(self, window: Window) -> bool:
        """Whether any rules of a window queue what is sent before it is told who sends it.

        That is behind raw's chains, where it goes on on behalf of the program that it was queued for.
        """
        every = {id(one): one for one in window.resolver.grammars}
        return any(map(self._queues, every.values()))

    def _queues(self, grammar: Grammar) -> bool:
        key = id(grammar)
        if key not in self._queueing:
            found = any(
                rule.target in _QUEUES or rule.spec.startswith("queue") or " queue" in rule.spec
                for name, table in grammar.ruleset.tables.items()
                if name == "raw" or any(_is_early(one) for one in table.values())
                for chain in table.values()
                for rule in chain.rules
            )
            self._queueing[key] = grammar, found
        return self._queueing[key][1]

    def _diverts(self, grammar: Grammar) -> bool:
        key = id(grammar)
        if key not in self._known:
            tables = grammar.ruleset.tables.values()
            rules = (rule for table in tables for chain in table.values() for rule in chain.rules)
            found = any(rule.target == "TPROXY" or "tproxy" in rule.spec for rule in rules)
            self._known[key] = grammar, found
        return self._known[key][1]
