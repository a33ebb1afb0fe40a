"""Packets by the path they took: ten thousand packets are a dozen paths.

A path is what a reader is told of it: tables, chains, rules with their texts, the verdict, and how the packets
ended behind the rules. Paths are numbered in the order in which they first appear in the recording, whatever is
selected.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.packets.ends import DISCARDED
from iptrec.packets.model import RulePlace, decided_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from iptrec.names import I64, Family
    from iptrec.packets.ends import Death, End, Ending, Source
    from iptrec.packets.model import StepType
    from iptrec.packets.outcome import Outcome
    from iptrec.packets.window import Window
    from iptrec.rulesets.places import Place


Whose = tuple[
    str | None, str | None
]  # host and namespace, as their names are; None: nobody named it
NO_ENDS: Final[Mapping[int, Ending]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PathStep:
    """One place of a path, as `traversal.Step` has it."""

    table: str
    chain: str
    type: StepType
    rule: int | None
    spec: str | None
    target: str | None
    target_args: str | None


class PathEnd(NamedTuple):
    """What the ends of packets behind a path have in common; see `End`.

    ``death``: how the kernel was seen to drop them; None of ends whose words each packet has for itself.
    """

    source: Source
    reason: str
    sure: bool
    death: Death | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """A path that packets took; ``end``: what became of them behind it, where that is known.

    ``host``: on which, where several recordings are read as one.
    """

    family: Family
    netns: str | None
    verdict: str
    decided_by: RulePlace | None
    complete: bool
    ambiguous: bool
    steps: tuple[PathStep, ...]
    end: PathEnd | None = None
    host: str | None = None

    @property
    def decider(self) -> PathStep | None:
        """The step that decided; None where that was not seen."""
        at = decided_at(self.decided_by, self.steps)
        return None if at is None else self.steps[at]

    @property
    def by_kernel(self) -> str | None:
        """Who ended it and why, where no rule did: "by the kernel (IP_RPFILTER)", in the kernel's own word."""
        if self.verdict != DISCARDED:
            return None
        return "by the kernel" if self.end is None else f"by the kernel ({self.end.reason})"


class PathBook:
    """Numbers the paths of a recording's windows, from 1."""

    def __init__(self) -> None:
        self.paths: dict[Path, int] = {}
        self._known: dict[tuple[int, Outcome, PathEnd | None], int] = {}

    def numbers(
        self, window: Window, place: Whose, odd_ends: Mapping[int, Ending] = NO_ENDS
    ) -> I64:
        """The path of each decided traversal, shape (decided,).

        ``place``: the names of the host and of the namespace. ``odd_ends``: by their positions what is told of
        some of them, which is not what their outcomes tell.
        """
        outcome = window.assembly.outcome[: window.decided]
        if not len(outcome):
            return outcome
        outcomes = window.assembly.outcomes
        which = np.zeros(len(outcome), np.int64)  # 0: as the outcome tells
        ends: dict[PathEnd | None, int] = {}
        for position, (end, _) in odd_ends.items():
            if end is None or end.source != "seen":
                which[position] = ends.setdefault(_end(end), len(ends) + 1)
        told = [None, *ends]
        pairs, first, of = np.unique(
            outcome * len(told) + which, return_index=True, return_inverse=True
        )
        numbers = np.zeros(len(pairs), np.int64)
        for at in np.argsort(first).tolist():
            number, other = divmod(int(pairs[at]), len(told))
            one = outcomes[number]
            numbers[at] = self._number(window, one, told[other] if other else _death(one), place)
        return numbers[of]

    def _number(self, window: Window, outcome: Outcome, end: PathEnd | None, place: Whose) -> int:
        key = (window.stream.id, outcome, end)
        if key not in self._known:
            path = _path(window, outcome, end, place)
            self._known[key] = self.paths.setdefault(path, len(self.paths) + 1)
        return self._known[key]


def _end(end: End | None) -> PathEnd | None:
    return None if end is None else PathEnd(end.source, end.reason, end.sure)


def _death(outcome: Outcome) -> PathEnd | None:
    death = outcome.death
    return None if death is None else PathEnd("seen", death.reason, death.sure, death)


def _path(window: Window, outcome: Outcome, end: PathEnd | None, place: Whose) -> Path:
    resolver, (host, netns) = window.resolver, place
    places = [resolver.places[number] for number in outcome.path]
    decider = None if outcome.decider is None else places[outcome.decider]
    return Path(
        family=resolver.families[outcome.path[0]],
        netns=netns,
        verdict=outcome.verdict,
        decided_by=None if decider is None else RulePlace.of(decider),
        complete=outcome.complete,
        ambiguous=outcome.doubt is not None,
        steps=tuple(_step(places[at]) for at in shown(places)),
        end=end,
        host=host,
    )


def shown(places: Sequence[Place]) -> list[int]:
    """Which places are steps: not those of our own rules, if there are others; of our own tables none.

    That nf_tables found no further rule in a base chain is one where nothing else is told.
    """
    theirs = [at for at, place in enumerate(places) if not place.ours]
    ours = [at for at, place in enumerate(places) if not place.apart]
    return theirs or [at for at in ours if places[at].rule or places[at].end] or ours


def _step(place: Place) -> PathStep:
    rule = place.rule
    return PathStep(
        table=place.table,
        chain=place.chain,
        type=step_type(place),
        rule=place.number,
        spec=rule.spec if rule else None,
        target=place.target,
        target_args=rule.target_args if rule and not place.by_match else None,
    )


def step_type(place: Place) -> StepType:
    """The truth about a place: a rule, its match alone, a user chain's end, a policy, or that nobody knows."""
    if place.by_match:
        return "match"
    if place.end:
        return "policy" if place.builtin else "return"
    return "unknown" if place.rule_or_end else "rule"
