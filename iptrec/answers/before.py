"""What a packet met before each of its steps: the rules that were passed over, and its mark then."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from iptrec.matching import changes
from iptrec.matching.rewrites import ANYTHING, MARK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.decode.rulesets.types import Rule
    from iptrec.names import I64
    from iptrec.packets.window import Window
    from iptrec.rulesets.grammar import Grammar, State
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Book

    Numbered = tuple[int, Rule]


class Before(NamedTuple):
    """``row``: of the event. ``rules``: those passed over before it, with the user's numbers.

    ``mark``, ``mark_after``: the packet's before and after the event's rule, None where no event tells it.
    ``late``: the event tells of the packet after its rule, not before. ``dumps``: it holds the packet.
    """

    row: int
    place: Place
    rules: list[Numbered]
    mark: int | None
    mark_after: int | None
    late: bool
    dumps: bool


def before_steps(window: Window, position: int, path: tuple[int, ...]) -> list[Before]:
    """For each step of a packet that took a path (`Outcome.paths`)."""
    rows = window.assembly.events(position)
    places = [window.resolver.places[number] for number in path]
    late = [window.resolver.backends[number].mark_after for number in path]
    marks, marks_after = _marks(places, _told_marks(window, rows, places), late)
    dumps = (window.events.head[rows] == window.events.datagram[rows]).tolist()
    skipped = _skipped(window.resolver, path)
    found = list(map(Before, rows.tolist(), places, skipped, marks, marks_after, late, dumps))
    return _of_steps(found) or [one for one in found if not one.place.apart]


def _of_steps(found: Sequence[Before]) -> list[Before]:
    """Leave out our own events; rules passed over before one were passed over before the next of its chain.

    The kernel reports the end of a base chain of nf_tables, then its policy: the former is counted as ours.
    """
    steps: list[Before] = []
    rules: list[Numbered] = []
    dumped = False
    last: Place | None = None
    for one in found:
        place = one.place
        same = last is not None and (place.pass_, place.chain) == (last.pass_, last.chain)
        rules = rules + one.rules if same else one.rules
        dumped = one.dumps or (dumped and same)
        if not place.ours:
            steps.append(one._replace(rules=rules, dumps=dumped))
            rules, dumped = [], False
        last = place
    return steps


def _told_marks(window: Window, rows: I64, places: Sequence[Place]) -> list[int | None]:
    """The marks that events have, None where they have none."""
    return [
        window.stream.told(mark, policy=one.end and one.builtin)
        for mark, one in zip(window.events.mark[rows].tolist(), places, strict=True)
    ]


def _marks(
    places: Sequence[Place], marks: Sequence[int | None], late: Sequence[bool]
) -> tuple[list[int | None], list[int | None]]:
    """The marks before and after each event's rule, as far as events tell them.

    ``late``: whether the event tells the latter. What changes a mark between two hooks is not always seen.
    """
    before = [
        None if after and {MARK, ANYTHING} & changed(place) else mark
        for place, mark, after in zip(places, marks, late, strict=True)
    ]
    told = zip(marks, late, [*before[1:], None], strict=True)
    return before, [mark if after else following for mark, after, following in told]


def changed(place: Place) -> frozenset[str]:
    """What the rule of an event changes; anything, where that is not known."""
    if place.wordless or (place.rule is not None and not place.rule.listed):
        return frozenset([ANYTHING])
    return frozenset() if place.rule is None else changes(place.rule, matched=True)


def _skipped(book: Book, path: tuple[int, ...]) -> list[list[Numbered]]:
    """For each place of a path the rules of its chain that were passed over before it."""
    found: list[list[Numbered]] = []
    state: State | None = None
    for one in path:
        place, grammar = book.places[one], book.grammars[one]
        before: int | None = 0
        if state is not None and state.pass_ == place.pass_:
            frame = state.frames[-1] if state.frames else None
            before = frame[1] if frame is not None and frame[0] == place.chain else 0
        found.append(list(_between(grammar, place.table, place.chain, before, place.index)))
        state = (grammar.advance(state, place) if state else None) or grammar.begin(place)
    return found


def _between(
    grammar: Grammar, table: str, chain: str, after: int | None, until: int | None
) -> Iterator[Numbered]:
    """The user's rules of a chain between two of the kernel's numbers; None: nobody knows which."""
    known, shape = grammar.chain(table, chain), grammar.shape(table, chain)
    if known is None or shape is None:
        return
    first = after or 0
    for index, rule in enumerate(known.rules[first : max((until or 0) - 1, 0)], first + 1):
        number = shape.number(index)
        if number is not None:
            yield number, rule
