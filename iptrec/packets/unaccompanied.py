"""Packets that passed a chain that a commit had deleted, but not what the commit put in its place.

As long as an old base chain of nf_tables is still attached (`Attached`), the new ones are, too: a packet
passes both, unless it ends before. One that passed the old one alone, and went on behind the hook of a new one,
met other rules than those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.names import HOOKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.decode.rulesets.types import Base
    from iptrec.rulesets.resolver import Book

_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
# What shows that a packet left a hook behind: it was at one of these hooks, and at one of those.
_LEFT: Final = {
    _PREROUTING: ({_PREROUTING}, {_INPUT, _FORWARD, _POSTROUTING}),
    _FORWARD: ({_PREROUTING, _FORWARD}, {_POSTROUTING}),
    _OUTPUT: ({_OUTPUT}, {_POSTROUTING}),
}


def unaccompanied(book: Book, path: Sequence[int]) -> bool:
    """Whether a path has a chain that goes, and misses a new one that the packet must have passed."""
    places = [book.places[one] for one in path]
    going = {book.states[one] for one, place in zip(path, places, strict=True) if place.beside}
    if not going or any(one.bridged for one in places):
        return False
    hooks = {one.hook for one in places}
    passed = {(book.states[one], book.places[one].hook, book.places[one].base) for one in path}
    return any(
        (attached.beside, base.hook, name) not in passed
        for attached in (book.attached[one] for one in going)
        for name, base in attached.fresh.items()
        if _left(base, hooks) and _traced(base, book, path[0])
    )


def _left(base: Base, hooks: set[int]) -> bool:
    """Whether a packet that was at some hooks left that of a base chain behind, and what passes it."""
    if base.type == "nat" or base.hook not in _LEFT:
        return False
    loops = base.hook == _FORWARD and hooks & {_INPUT, _OUTPUT}  # it was at all of them, but there
    return not loops and all(hooks & some for some in _LEFT[base.hook])


def _traced(base: Base, book: Book, first: int) -> bool:
    """Whether a packet is traced in a base chain; ``first``: the place where that began."""
    place = book.places[first]
    if place.hook != base.hook:
        return True
    begun = book.grammars[first].chain(place.table, place.base or place.chain)
    return begun is not None and begun.base is not None and begun.base.priority < base.priority
