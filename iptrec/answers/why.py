"""Why a packet ended as it did: the rules that it met and that did not match, and the one that did.

The kernel logs only rules that match. Between two events of a chain lie the rules that were evaluated
and did not; which condition failed is told by `matching`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from iptrec.context.addresses import addresses
from iptrec.decode import snapshots
from iptrec.matching import judge
from iptrec.matching.facts import Facts, Judgement
from iptrec.rulesets.targets import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from iptrec.answers.packets import Packets
    from iptrec.decode.ipsets import IpSet
    from iptrec.decode.rulesets.types import Rule
    from iptrec.packets.model import Step, Traversal
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.grammar import Grammar, State
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Resolver


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule that was evaluated and did not match. ``number`` counts the user's rules from 1."""

    number: int
    rule: Rule
    judgement: Judgement

    @property
    def fits(self) -> bool | None:
        """Whether all that is known of the packet fits the rule; None where something is not known."""
        return self.judgement.fits

    @property
    def because(self) -> str | None:
        """The condition that failed, or that it depends on; None where all that is known fits."""
        return self.judgement.because


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """A step, and the rules of its chain that were passed over before it."""

    step: Step
    passed: tuple[Passed, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A packet, and why each of its steps came next."""

    packet: Traversal
    steps: tuple[ExplainedStep, ...]


def explain(recording: Recording, packets: Packets) -> Iterator[Explanation]:
    """Explain the selected packets."""
    local, sets = local_addresses(recording), _sets(recording)
    for batch in packets.batches():
        for position in batch.positions.tolist():
            packet = batch.traversal(position)
            steps = []
            for step, before in zip(packet.steps, _before(batch.window, position), strict=True):
                facts = replace(
                    facts_of(packet, step, local, sets), mark=before.mark, ct_state=before.ct_state
                )
                passed = (Passed(number, rule, judge(rule, facts)) for number, rule in before.rules)
                steps.append(ExplainedStep(step, tuple(passed)))
            yield Explanation(packet, tuple(steps))


class _Before(NamedTuple):
    """The rules that were passed over before an event; the packet's mark then (if known), and state."""

    rules: list[tuple[int, Rule]]
    mark: int | None
    ct_state: int


def _before(window: Window, position: int) -> list[_Before]:
    """For each step of a packet."""
    way = window.assembly.outcomes[window.assembly.outcome[position]].way
    rows = window.assembly.events(position)
    found = list(
        map(
            _Before,
            _skipped(window.resolver, way),
            _marks_before(window, rows.tolist(), way),
            window.events.ct_state[rows].tolist(),
        )
    )
    return _of_steps(found, [window.resolver.places[number] for number in way]) or found


def _of_steps(found: Sequence[_Before], places: Sequence[Place]) -> list[_Before]:
    """Leave out our own events; rules passed over before one were passed over before the next of its chain.

    The kernel reports the end of a base chain of nf_tables, then its policy: the former is counted as ours.
    """
    steps: list[_Before] = []
    rules: list[tuple[int, Rule]] = []
    for at, (one, place) in enumerate(zip(found, places, strict=True)):
        same = at > 0 and (place.pass_, place.chain) == (places[at - 1].pass_, places[at - 1].chain)
        rules = rules + one.rules if same else one.rules
        if not place.ours:
            steps.append(one._replace(rules=rules))
            rules = []
    return steps


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
        ours = is_ours(rule, grammar.our_comment)
        number += not ours
        if after < index < until and not ours:
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
