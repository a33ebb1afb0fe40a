"""Whether rules may hand packets to sockets of other ports than those that they are for, or queue them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.names import HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from iptrec.decode.rulesets.types import Chain, Rule
    from iptrec.packets.window import Window
    from iptrec.rulesets.grammar import Grammar

    _Look = Callable[[Grammar], bool]

_QUEUES: Final = ("NFQUEUE", "QUEUE")
_TOLD_AT: Final = -299  # the priority at which it is told who sends, or a little later
_OUTPUT: Final = HOOKS.index("OUTPUT")


class Diverting:
    """Looks at each grammar once."""

    def __init__(self) -> None:
        self._known: dict[tuple[_Look, int], tuple[Grammar, bool]] = {}  # by the grammar's id

    def may_be(self, window: Window) -> bool:
        """Whether any rules of a window do."""
        return self._any(_diverts, window)

    def may_queue(self, window: Window) -> bool:
        """Whether any rules of a window queue what is sent before it is told who sends it.

        That is behind raw's chains, where it goes on on behalf of the program that it was queued for.
        """
        return self._any(_queues, window)

    def _any(self, look: _Look, window: Window) -> bool:
        for one in window.resolver.grammars:
            key = look, id(one)
            if key not in self._known:
                self._known[key] = one, look(one)
            if self._known[key][1]:
                return True
        return False


def _diverts(grammar: Grammar) -> bool:
    rules = _rules(grammar.ruleset.tables.values())
    return any(rule.target == "TPROXY" or "tproxy" in rule.spec for rule in rules)


def _queues(grammar: Grammar) -> bool:
    rules = _rules(
        table
        for name, table in grammar.ruleset.tables.items()
        if name == "raw" or any(_is_early(one) for one in table.values())
    )
    return any(
        rule.target in _QUEUES or rule.spec.startswith("queue") or " queue" in rule.spec
        for rule in rules
    )


def _rules(tables: Iterable[Mapping[str, Chain]]) -> Iterator[Rule]:
    return (rule for table in tables for chain in table.values() for rule in chain.rules)


def _is_early(chain: Chain) -> bool:
    base = chain.base
    return base is not None and base.hook == _OUTPUT and base.priority <= _TOLD_AT
