"""Why a packet ended as it did: the rules that it met and that did not match, and the one that did.

The kernel logs only rules that match. Between two events of a chain lie the rules that were evaluated
and did not; which condition failed is told by `match`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iptrec.answers.packets import Replay
from iptrec.context.addresses import addresses
from iptrec.decode import snapshots
from iptrec.matching.iptables import Facts, Judgement, judge
from iptrec.rulesets.grammar import is_own

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.answers.index import Bookmarks
    from iptrec.answers.selection import Selection
    from iptrec.decode.ipsets import IpSet
    from iptrec.decode.rulesets.types import Rule
    from iptrec.packets.model import Step, Traversal
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.grammar import Grammar, State
    from iptrec.rulesets.resolver import Rulebook


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
        outcome = window.assembly.outcomes[window.assembly.outcome[position]]
        skipped = _skipped(window.rulebook, outcome.way)
        shown = [
            rules
            for rules, number in zip(skipped, outcome.way, strict=True)
            if not window.rulebook.places[number].own
        ] or skipped
        yield Explained(
            traversal,
            tuple(
                tuple(
                    Passed(number, rule, judge(rule, facts_of(traversal, step, local, sets)))
                    for number, rule in rules
                )
                for step, rules in zip(traversal.steps, shown, strict=True)
            ),
        )


def _skipped(book: Rulebook, way: tuple[int, ...]) -> list[list[tuple[int, Rule]]]:
    """For each place of a way the rules of its chain that were passed over on the way to it."""
    found: list[list[tuple[int, Rule]]] = []
    state: State | None = None
    for one in way:
        place, grammar = book.places[one], book.grammars[one]
        before = 0
        if state is not None and state.stage == place.stage:
            frame = state.frames[-1] if state.frames else None
            before = frame[1] if frame is not None and frame[0] == place.chain else 0
        found.append(_between(grammar, place.table, place.chain, before, place.index))
        state = (grammar.follow(state, place) if state else None) or grammar.begin(place)
    return found


def _between(
    grammar: Grammar, table: str, chain: str, after: int, until: int
) -> list[tuple[int, Rule]]:
    """The user's rules of a chain between two of the kernel's numbers."""
    known = grammar.ruleset.tables.get(table, {}).get(chain)
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
