"""What differs between two recordings: flows whose fate changed, and paths that one of them has alone.

The rules may have been numbered anew, or told by another backend: a fate is the verdict, a path what its rules
say (`path_words`). Packets that were not seen whole may have had any fate: no flow is said to have changed
where they could make up for the difference.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from iptrec.answers.fates import fates
from iptrec.answers.path_counts import ORDERS
from iptrec.answers.path_words import UNKNOWN, Language
from iptrec.packets.flows import Flow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.fates import Fate, Fates
    from iptrec.answers.packets import Packets
    from iptrec.answers.path_counts import PathCount
    from iptrec.answers.path_words import PathWords, Rulesets
    from iptrec.packets.model import RulePlace

# "perhaps": unless packets that were not seen whole make up for it; "unknown": all of one side are such
Change = Literal["changed", "perhaps", "unknown", "same"]


class Ended(NamedTuple):
    """Packets of a flow that ended alike; ``first``: the number of one, ``spec``: the rule that decided."""

    verdict: str
    decided_by: RulePlace | None
    spec: str | None
    packets: int
    first: int


@dataclass(frozen=True, slots=True)
class FlowSide:
    """A flow in one recording. ``ended``: the most packets first; ``unsure``: whose end is not certain."""

    ended: tuple[Ended, ...]
    unsure: int

    @property
    def verdicts(self) -> dict[str, int]:
        """How many packets had each, the most first."""
        counts: Counter[str] = Counter()
        for one in self.ended:
            counts[one.verdict] += one.packets
        return dict(counts.most_common())


@dataclass(frozen=True, slots=True)
class FlowChange:
    """A flow that both recordings have, and what changed."""

    change: Change
    flow: Flow
    before: FlowSide
    now: FlowSide

    @property
    def decider(self) -> Ended | None:
        """Who decides now what was not so before; else over most packets."""
        known = self.before.verdicts
        new = (one for one in self.now.ended if one.verdict not in known)
        return next(new, next(iter(self.now.ended), None))


@dataclass(frozen=True, slots=True)
class PathChange:
    """A path that only the one recording, or the other, has."""

    only: Literal["before", "now"]
    path: PathCount


class TraceDifferences:
    """What differs between two recordings.

    ``same``: how many flows fared alike; ``only``: how many flows each recording has alone, None where not all
    flows of the other one were kept. ``uncompared``: of each how many packets took a path that is not known
    for certain. ``beyond``: how many were of flows that were not kept, or are not known.
    """

    def __init__(self, before: Fates, now: Fates) -> None:
        self._sides = before, now
        self._keys: dict[Change, list[bytes]] = {}
        both = [key for key in before.flows if key in now.flows]
        both.sort(key=lambda key: (-sum(map(_packets, self._fates(key))), key))
        for key in both:
            change = _change(*(_verdicts(*one) for one in self._both(key)))
            self._keys.setdefault(change, []).append(key)
        self.same = len(self._keys.get("same", ()))
        self.only = tuple(
            None if other.beyond else len(one.flows) - len(both)
            for one, other in ((before, now), (now, before))
        )
        self.uncompared = tuple(map(_uncompared, self._sides))
        self.beyond = tuple(one.beyond + one.unknown for one in self._sides)
        self.paths = [
            *(PathChange("now", one) for one in _paths_only_in(now, before)),
            *(PathChange("before", one) for one in _paths_only_in(before, now)),
        ]

    @property
    def any(self) -> bool:
        """Whether something differs, as far as it was seen."""
        return bool(self.count("changed") or self.count("perhaps") or self.paths)

    def count(self, change: Change) -> int:
        """How many flows have changed in this way."""
        return len(self._keys.get(change, ()))

    def flows(self, change: Change, limit: int | None = None) -> Iterator[FlowChange]:
        """These flows, the most packets first; no more than ``limit``."""
        for key in self._keys.get(change, [])[:limit]:
            sides = (_side(*one) for one in self._both(key))
            yield FlowChange(change, Flow.of(key), *sides)

    def _fates(self, key: bytes) -> Iterator[Fate]:
        return (side.flows[key] for side in self._sides)

    def _both(self, key: bytes) -> Iterator[tuple[Fates, Fate]]:
        return ((side, side.flows[key]) for side in self._sides)


def compare_traces(
    before: tuple[Packets, Rulesets], now: tuple[Packets, Rulesets]
) -> TraceDifferences:
    """Compare all packets of two recordings.

    ``before``: with the last rules of that recording; ``now``: with the first of the other one.
    """
    languages = Language.of_both(before[1], now[1])
    return TraceDifferences(fates(before[0], languages[0]), fates(now[0], languages[1]))


def _change(before: tuple[set[str], int], now: tuple[set[str], int]) -> Change:
    """``before``, ``now``: the verdicts, and how many packets may have had any."""
    (old, unsure_before), (new, unsure_now) = before, now
    if not old or not new:
        return "unknown"
    if old == new:
        return "same"
    changed = len(new - old) > unsure_before or len(old - new) > unsure_now
    return "changed" if changed else "perhaps"


def _verdicts(side: Fates, fate: Fate) -> tuple[set[str], int]:
    certain = {one for one in fate.paths if _is_certain(side, one)}
    unsure = sum(packets for one, (packets, _) in fate.paths.items() if one not in certain)
    return {side.paths[one].path.verdict for one in certain}, unsure + fate.more


def _side(side: Fates, fate: Fate) -> FlowSide:
    ended: dict[tuple[str, RulePlace | None, str | None], tuple[int, int]] = {}
    for number, (packets, first) in fate.paths.items():
        if not _is_certain(side, number):
            continue
        path = side.paths[number].path
        key = path.verdict, path.decided_by, path.decider.spec if path.decider else None
        before, began = ended.get(key, (0, first))
        ended[key] = before + packets, min(began, first)
    found = [Ended(*key, *counts) for key, counts in ended.items()]
    found.sort(key=lambda one: (-one.packets, one.first))
    _, unsure = _verdicts(side, fate)
    return FlowSide(tuple(found), unsure)


def _is_certain(side: Fates, number: int) -> bool:
    path = side.paths[number].path
    return path.complete and not path.ambiguous and path.verdict != UNKNOWN


def _packets(fate: Fate) -> int:
    return sum(packets for packets, _ in fate.paths.values()) + fate.more


def _uncompared(side: Fates) -> int:
    return sum(one.count.packets for one in side.paths.values() if side.words[one.number] is None)


def _paths_only_in(side: Fates, other: Fates) -> list[PathCount]:
    """The paths that say what none of the other recording's says, as `iptrec paths` sorts them."""
    others = set(other.words.values())
    found: dict[PathWords, PathCount] = {}
    for number, one in side.paths.items():
        words = side.words[number]
        if words is None or words in others:
            continue
        if words not in found:
            found[words] = replace(one, count=replace(one.count))
        else:
            count = one.count
            found[words].count.add(
                count.packets, count.bytes, count.first_ns, count.last_ns, count.example
            )
            if found[words].path.end != one.path.end:  # what its rules say is a path here
                path = replace(found[words].path, end=None)
                found[words] = replace(found[words], path=path, end=None)
    return sorted(found.values(), key=ORDERS["verdict"])
