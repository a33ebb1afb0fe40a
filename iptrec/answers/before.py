"""What a packet met, and what it was, before the rule of each of its events.

An event of nf_tables tells of the packet after its rule: the mark of each event, the packet itself of the first
event of a base chain alone. What rules have changed since then is not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from iptrec.matching import writes
from iptrec.rulesets.targets import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.decode.rulesets.types import Rule
    from iptrec.packets.window import Window
    from iptrec.rulesets.grammar import Grammar, State
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Book

    Numbered = tuple[int, Rule]

_MARK = "meta mark"
_ANYTHING = frozenset([""])


class Before(NamedTuple):
    """``row``: of the event. ``rules``: those passed over before it, with the user's numbers.

    ``mark``, ``mark_after``: the packet's before and after the event's rule, None where it is not known.
    ``written``: what may be other than the event says, see `matching.facts.Facts`. ``table``: of the rules.
    """

    row: int
    table: str
    rules: list[Numbered]
    mark: int | None
    written: frozenset[str]
    mark_after: int | None


def before_steps(window: Window, position: int) -> list[Before]:
    """For each step of a packet."""
    path = window.assembly.outcomes[window.assembly.outcome[position]].path
    rows = window.assembly.events(position)
    places = [window.resolver.places[number] for number in path]
    skipped = _skipped(window.resolver, path)
    after = [window.resolver.backends[number].mark_after for number in path]
    written = _written(places, skipped, after)
    marks, marks_after = _marks(places, window.events.mark[rows].tolist(), after)
    tables = [place.table for place in places]
    found = list(map(Before, rows.tolist(), tables, skipped, marks, written, marks_after))
    return _of_steps(found, places) or found


def _of_steps(found: Sequence[Before], places: Sequence[Place]) -> list[Before]:
    """Leave out our own events; rules passed over before one were passed over before the next of its chain.

    The kernel reports the end of a base chain of nf_tables, then its policy: the former is counted as ours.
    """
    steps: list[Before] = []
    rules: list[Numbered] = []
    for at, (one, place) in enumerate(zip(found, places, strict=True)):
        same = at > 0 and (place.pass_, place.chain) == (places[at - 1].pass_, places[at - 1].chain)
        rules = rules + one.rules if same else one.rules
        if not place.ours:
            steps.append(one._replace(rules=rules))
            rules = []
    return steps


def _marks(
    places: Sequence[Place], marks: Sequence[int], after: Sequence[bool]
) -> tuple[list[int | None], list[int | None]]:
    """The marks before and after each event's rule; ``after``: whether the event tells the latter."""
    before = [
        _mark_before(places, marks, after, at) if told_after else marks[at]
        for at, told_after in enumerate(after)
    ]
    told = zip(marks, after, [*before[1:], None], strict=True)
    return before, [mark if told_after else following for mark, told_after, following in told]


def _mark_before(
    places: Sequence[Place], marks: Sequence[int], after: Sequence[bool], at: int
) -> int | None:
    """That of the event, unless its rule may have set it.

    Then it is that of the event before; but what changes a mark between two hooks is not always seen.
    """
    if _MARK not in _changes(places[at]) and "" not in _changes(places[at]):
        return marks[at]
    same = at > 0 and after[at - 1] and places[at - 1].hook == places[at].hook
    return marks[at - 1] if same else None


def _written(
    places: Sequence[Place], skipped: Sequence[Sequence[Numbered]], after: Sequence[bool]
) -> list[frozenset[str]]:
    """What may differ from what the first event of the same base chain tells of the packet.

    Each event of legacy iptables tells all of it.
    """
    found: list[frozenset[str]] = []
    at = 0
    while at < len(places):
        end = at + 1
        while end < len(places) and places[end].pass_ == places[at].pass_:
            end += 1
        # A rule may write, and then not match.
        half = frozenset(
            key
            for rules in skipped[at:end]
            for _, rule in rules
            for key, partly in writes(rule)
            if partly
        )
        since = frozenset[str]()
        for number in range(at, end):
            first = number == at
            changes = _changes(places[number]) - {_MARK}
            written = half | (changes if first else since)
            found.append(written if after[number] else frozenset())
            since = since if first else since | changes
        at = end
    return found


def _changes(place: Place) -> frozenset[str]:
    """What the rule of an event changes; anything, where that is not known."""
    if place.rule is None:
        return _ANYTHING if place.nameless else frozenset()
    return frozenset(key for key, _ in writes(place.rule))


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
    known = grammar.chain(table, chain)
    after, until = after or 0, until or 0
    number = 0
    for index, rule in enumerate(known.rules if known else (), 1):
        ours = is_ours(rule, grammar.our_comment)
        number += not ours
        if after < index < until and not ours:
            yield number, rule
