"""Why a packet ended as it did: the rules that it met and that did not match, and the one that did.

The kernel logs only rules that match. Between two events of a chain lie the rules that were evaluated
and did not; which condition failed is told by `match`.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iptrec.context.addresses import addresses
from iptrec.errors import RecordingError
from iptrec.matching.iptables import Facts, Judgement, judge
from iptrec.rulesets.grammar import is_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.packets import Packets
    from iptrec.decode.rulesets.types import Rule
    from iptrec.packets.model import Step, Traversal
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording
    from iptrec.rulesets.grammar import Grammar, State
    from iptrec.rulesets.resolver import Rulebook


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
            passed = _passed(batch.window, position)
            yield Explanation(
                packet,
                tuple(
                    ExplainedStep(
                        step,
                        tuple(
                            Passed(number, rule, judge(rule, facts_of(packet, step, local, sets)))
                            for number, rule in rules
                        ),
                    )
                    for step, rules in zip(packet.steps, passed, strict=True)
                ),
            )


def _passed(window: Window, position: int) -> list[list[tuple[int, Rule]]]:
    """For each step of a packet the rules that were passed over before it."""
    outcome = window.assembly.outcomes[window.assembly.outcome[position]]
    skipped = _skipped(window.rulebook, outcome.way)
    return [
        rules
        for rules, number in zip(skipped, outcome.way, strict=True)
        if not window.rulebook.places[number].own
    ] or skipped


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
    traversal: Traversal, step: Step, local: frozenset[Any] | None, sets: dict[str, list[Any]]
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


def _sets(recording: Recording) -> dict[str, list[Any]]:
    """The members of the ipsets, each time that they were recorded; those that are not known left out."""
    found: dict[str, list[Any]] = {}
    unknown: set[str] = set()
    for snapshot in recording.snapshots("ipsets"):
        try:
            for name, one in json.loads(snapshot.content).items():
                if one["members"] is None:
                    unknown.add(name)
                else:
                    networks = frozenset(ipaddress.ip_network(member) for member in one["members"])
                    found.setdefault(name, []).append(networks)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise RecordingError(f"the recording's list of ipsets is damaged: {error}") from None
    return {name: members for name, members in found.items() if name not in unknown}
