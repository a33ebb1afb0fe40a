"""The rules of legacy iptables that a packet meets next if none of them matches it.

Every rule that matches is logged there, and so is each chain's end: what is between two events did not match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from iptrec.names import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.decode.rulesets.types import Rule
    from iptrec.rulesets.grammar import Grammar
    from iptrec.rulesets.places import Place


class Unmet(NamedTuple):
    """``where``: as readers name it. ``same_hook``: whether it is of the hook where the packet was last."""

    where: str
    rule: Rule
    same_hook: bool = True


def unmet(grammar: Grammar, last: Place) -> Iterator[Unmet]:
    """Those after the place where a packet was seen last."""
    if last.effect == "accept":
        for one in grammar.ahead(last.pass_):
            for each in _after(grammar, one.table, HOOKS[one.hook], 0):
                yield each._replace(same_hook=one.hook == last.hook)
    elif last.effect in ("jump", "goto") and last.argument is not None:
        yield from _after(grammar, last.table, last.argument, 0)
    elif last.effect == "continue" and last.index is not None:
        yield from _after(grammar, last.table, last.chain, last.index)


def _after(grammar: Grammar, table: str, name: str, index: int) -> Iterator[Unmet]:
    """The rules of a chain after one, up to the first that always matches."""
    chain, shape = grammar.chain(table, name), grammar.shape(table, name)
    if chain is None or shape is None:
        return
    for one in range(index + 1, min(shape.barrier(index), len(chain.rules) + 1)):
        yield Unmet(f"{table}/{name} rule {shape.number(one)}", chain.rules[one - 1])
