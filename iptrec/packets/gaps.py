"""The way of a packet through chains that the ruleset does not have.

Who pastes a trace may paste the tables that he thinks of beside it, and not all. What a line tells of another
table has no hook then, and comes where the packet came to it: behind a chain that let it pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iptrec.packets.branches import Branch
    from iptrec.rulesets.grammar import State
    from iptrec.rulesets.resolver import Book


def across(book: Book, branch: Branch, place: int) -> State | None:
    """Where a packet stands that goes into such a chain, on in it, or out of it; None where it does neither."""
    state, last = branch.state, branch.path[-1]
    if book.families[last] != book.families[place]:
        return None
    grammar, there = book.judging(place, branch.met), book.places[place]
    if _is_listed(book, place):
        # All that came before was in such chains: nothing tells how far it is.
        lost = not any(_is_listed(book, one) for one in branch.path)
        return grammar.begin(there) if lost and there.builtin and state.status == "passed" else None
    inside = state.status == "walking" and not _is_listed(book, last)
    if inside and state.pass_ == there.pass_:
        found = grammar.advance(state, there)
    else:
        found = grammar.begin(there) if state.status == "passed" else None
    if found is None or found.status != "passed":
        return found
    passes = (book.places[one].pass_ for one in reversed(branch.path) if _is_listed(book, one))
    return replace(found, pass_=next(passes, found.pass_))


def _is_listed(book: Book, place: int) -> bool:
    there = book.places[place]
    return book.grammars[place].chain(there.table, there.chain) is not None
