"""The way of one packet as a whole: is it possible, how did it end, who decided.

Traffic takes few distinct ways. A way is a tuple of place numbers (`Rulebook`); each distinct one is
walked once and its `Outcome` shared by all packets that took it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from iptrec.analyze.grammar import HOOKS

if TYPE_CHECKING:
    from iptrec.analyze.grammar import Place, State
    from iptrec.analyze.rulebook import Rulebook


_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet.

    ``decider`` is the position in the way of the event that decided, None if none did. ``finished``:
    nothing can follow. ``complete``: seen from its first traced rule to its end.
    """

    verdict: str
    decider: int | None
    complete: bool
    finished: bool
    queued: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a way stands. ``holes``: events that cannot follow directly were joined."""

    last: int  # place number
    state: State
    headless: bool = False
    holes: bool = False


class Walker:
    """Steps and judges ways against the rulesets of a `Rulebook`, remembering what it has seen."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self._steps: dict[tuple[State, int], State | None] = {}
        self._outcomes: dict[tuple[int, ...], Outcome | None] = {}

    def outcome(self, path: tuple[int, ...]) -> Outcome | None:
        """How the way ends; None if no packet can have taken it."""
        if len(self._outcomes) > _REMEMBERED:  # real traffic takes few ways; a made-up file may not
            self._outcomes.clear()
            self._steps.clear()
        if path not in self._outcomes:
            walk: Walk | None = self.begin(path[0])
            for place in path[1:]:
                walk = self.step(walk, place) if walk else None
            self._outcomes[path] = self.judge(walk, path) if walk else None
        return self._outcomes[path]

    def begin(self, place: int) -> Walk:
        """A way that begins here; headless unless TRACE can have been switched on just before."""
        here = self._rulebook.places[place]
        state = self._rulebook.grammars[place].begin(here)
        return Walk(place, state, headless=not here.starts)

    def step(self, walk: Walk, place: int) -> Walk | None:
        """The way with one more event; None if it cannot follow."""
        key = (walk.state, place)
        if key not in self._steps:
            same_family = self._rulebook.families[walk.last] == self._rulebook.families[place]
            grammar = self._rulebook.grammars[place]
            self._steps[key] = (
                grammar.follow(walk.state, self._rulebook.places[place]) if same_family else None
            )
        state = self._steps[key]
        return None if state is None else replace(walk, last=place, state=state)

    def leap(self, walk: Walk, place: int) -> Walk | None:
        """As `step`, over events that are missing; None if ``place`` does not lie further on."""
        here = self._rulebook.places[place]
        grammar = self._rulebook.grammars[place]
        same_family = self._rulebook.families[walk.last] == self._rulebook.families[place]
        if not (same_family and grammar.later(walk.state, here)):
            return None
        return Walk(place, grammar.begin(here), walk.headless, holes=True)

    def judge(self, walk: Walk, path: tuple[int, ...]) -> Outcome:
        """What became of a packet that took this way and was not seen again."""
        grammar = self._rulebook.grammars[walk.last]
        state = walk.state
        ended = grammar.may_end(state)
        verdict = "UNKNOWN"
        decider = None
        if state.status == "ended":
            verdict, decider = state.verdict or "UNKNOWN", len(path) - 1
        elif state.status == "queued":
            verdict, decider = "QUEUE", len(path) - 1
        elif ended:
            verdict, decider = "ACCEPT", self._accepted_by(path)
        reason = self._why_incomplete(walk, ended=ended)
        return Outcome(
            verdict=verdict,
            decider=decider,
            complete=reason is None,
            finished=grammar.must_end(state),
            queued=state.status == "queued",
            reason=reason,
        )

    def _accepted_by(self, path: tuple[int, ...]) -> int:
        """The filter table's decision if it took one, else the last one."""
        places = [self._rulebook.places[place] for place in path]
        accepted = [i for i, place in enumerate(places) if place.effect == "accept"]
        filtered = [i for i in accepted if places[i].table == "filter"]
        return (filtered or accepted or [len(path) - 1])[-1]

    def _why_incomplete(self, walk: Walk, *, ended: bool) -> str | None:
        last = self._rulebook.places[walk.last]
        if walk.headless:
            return "its beginning was not recorded"
        if walk.holes:
            return "events are missing in the middle"
        if ended:
            return None
        if walk.state.status == "queued":
            return "handed to userspace; the answer was not seen"
        if walk.state.status == "passed":
            return (
                f"not seen after {last.table} {HOOKS[last.hook]}: the kernel dropped or consumed it"
                " outside of the rules (routing, rp_filter, TTL, socket), or the events were lost"
            )
        if walk.state.status == "open" and last.target is not None:
            return f"target {last.target} may have ended it"
        return f"the trace breaks off after {_where(last)}"


def _where(place: Place) -> str:
    number = "its end" if place.end else f"rule {place.number}"
    return f"{place.table}/{place.chain} {number}"
