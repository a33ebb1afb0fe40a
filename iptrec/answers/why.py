"""Why a packet ended as it did: the rules that it met and that did not match, and the one that did.

The kernel logs only rules that match. Between two events of a chain lie the rules that were evaluated
and did not; which condition failed is told by `match`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from iptrec.answers.packets import Replay
from iptrec.context.addresses import addresses
from iptrec.decode import snapshots
from iptrec.matching import judge
from iptrec.matching.facts import Facts, Judgement
from iptrec.rulesets.targets import is_own

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.answers.index import Bookmarks
    from iptrec.answers.selection import Selection
    from iptrec.decode.ipsets import IpSet
    from iptrec.decode.rulesets.types import Rule
    from iptrec.packets.model import Step, Traversal
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.grammar import Grammar, State
    from iptrec.rulesets.resolver import Resolver


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule that was evaluated and did not match. ``number`` counts the user's rules from 1."""

    number: int
    rule: Rule
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Explained:
    """A traversal, and for each of its steps the rules that were passed over before it."""

    traversal: Traversal
    passed: tuple[tuple[Passed, ...], ...]


def explain(
    recording: Recording, selection: Selection, bookmarks: Bookmarks | None = None
) -> Iterator[Explained]:
    """Explain the selected packets."""
    local, sets = local_addresses(recording), _sets(recording)
    for window, position, traversal in Replay(recording, selection, bookmarks).in_windows():
        way = window.assembly.outcomes[window.assembly.outcome[position]].way
        skipped = _skipped(window.resolver, way)
        shown = [at for at, one in enumerate(way) if not window.resolver.places[one].own]
        rows = window.assembly.events(position)
        marks = _marks_before(window, rows.tolist(), way)
        passed = []
        for step, at in zip(traversal.steps, shown or range(len(way)), strict=True):
            facts = replace(
                facts_of(traversal, step, local, sets),
                mark=marks[at],
                ct_state=int(window.events.ct_state[rows[at]]),
            )
            passed.append(
                tuple(Passed(number, rule, judge(rule, facts)) for number, rule in skipped[at])
            )
        yield Explained(traversal, tuple(passed))


def _marks_before(window: Window, rows: Sequence[int], way: tuple[int, ...]) -> list[int | None]:
    """The packet's mark before each event's rule, None where it is not known."""
    marks: list[int | None] = window.events.mark[rows].tolist()
    if not window.resolver.backend.mark_after:
        return marks
    passes = [window.resolver.places[one].pass_ for one in way]
    # What changes a mark between two base chains is not always seen.
    return marks[:1] + [
        before if passes[at] == passes[at - 1] or before == marks[at] else None
        for at, before in enumerate(marks[:-1], 1)
    ]


def _skipped(book: Resolver, way: tuple[int, ...]) -> list[list[tuple[int, Rule]]]:
    """For each place of a way the rules of its chain that were passed over on the way to it."""
    found: list[list[tuple[int, Rule]]] = []
    state: State | None = None
    for one in way:
        place, grammar = book.places[one], book.grammars[one]
        before: int | None = 0
        if state is not None and state.pass_ == place.pass_:
            frame = state.frames[-1] if state.frames else None
            before = frame[1] if frame is not None and frame[0] == place.chain else 0
        found.append(_between(grammar, place.table, place.chain, before, place.index))
        state = (grammar.advance(state, place) if state else None) or grammar.begin(place)
    return found


def _between(
    grammar: Grammar, table: str, chain: str, after: int | None, until: int | None
) -> list[tuple[int, Rule]]:
    """The user's rules of a chain between two of the kernel's numbers; None: nobody knows which."""
    known = grammar.chain(table, chain)
    after, until = after or 0, until or 0
    found = []
    number = 0
    for index, rule in enumerate(known.rules if known else (), 1):
        own = is_own(rule, grammar.own_comment)
        number += not own
        if after < index < until and not own:
            found.append((number, rule))
    return found


def facts_of(
    traversal: Traversal,
    step: Step,
    local: frozenset[Any] | None,
    sets: Sequence[Mapping[str, IpSet]],
) -> Facts:
    """What is known of a packet at one of its steps."""
    return Facts(
        header=step.header,
        mark=step.mark,
        in_=step.in_,
        out=step.out,
        physin=step.physin,
        physout=step.physout,
        source_mac=None if traversal.link is None else traversal.link["src"],
        local=local,
        sets=sets,
    )


def local_addresses(recording: Recording) -> frozenset[Any] | None:
    """The addresses of the host; None if there is no snapshot of them."""
    found = addresses(recording)
    return None if found is None else frozenset(address for _, address in found)


def _sets(recording: Recording) -> list[Mapping[str, IpSet]]:
    """The ipsets, each time that they were recorded; the same ones again where they have not changed."""
    found: list[Mapping[str, IpSet]] = []
    for snapshot in recording.snapshots("ipsets"):
        known = found[-1] if found else {}
        read = snapshots.ipsets(snapshot.content, snapshot.media)
        found.append(
            {name: known[name] if known.get(name) == one else one for name, one in read.items()}
        )
    return found
