"""The path of one packet as a whole: is it possible, how did it end, who decided.

Traffic takes few distinct paths. A path is a tuple of place numbers (`Book`); each distinct one is
walked once and its outcomes shared by all packets that took it. Where more than one ruleset may have
been in force, the walk goes on in branches, one for each that fits so far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from iptrec.names import HOOKS
from iptrec.rulesets.nft_places import is_our_table
from iptrec.rulesets.table_names import plain

if TYPE_CHECKING:
    from iptrec.names import Family
    from iptrec.rulesets.grammar import State
    from iptrec.rulesets.places import Pass, Place
    from iptrec.rulesets.resolver import Book, Met


_PREROUTING: Final = HOOKS.index("PREROUTING")
_FILTERING: Final = tuple(map(HOOKS.index, ("INPUT", "FORWARD", "OUTPUT")))
_REMEMBERED: Final = 100_000
_MOST_BRANCHES: Final = 64
HOLES: Final = "events are missing in the middle"
TORN: Final = "the rules changed while it was under way: it met old and new ones"
_NOTHING_TELLS: Final = (
    "nothing tells what became of it after {}: routing may have dropped it, and no later chain sees all that"
    " it lets pass"
)
_NOT_SEEN: Final = (
    "not seen after {}: {}the kernel dropped or consumed it outside of the rules (routing, rp_filter, TTL,"
    " socket), or the events were lost"
)
MOST_STEPS: Final = 4096  # of one packet; a made-up file may have any number


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet.

    ``path``: its place numbers. ``decider`` is the position in the path of the event that decided, None
    if none did. ``finished``: nothing can follow. ``complete``: seen from its first traced rule to its
    end, else ``reason`` says what is missing. ``doubt``: why it might have been otherwise, None if it
    is certain. ``vanished``: the table and hook after which it was routed and not seen again; "" where that is
    not so. ``alike``: paths through other rulesets that read the same. ``unsure``: the positions in the path
    whose rule it may not have been.
    """

    path: tuple[int, ...]
    verdict: str
    decider: int | None
    complete: bool
    finished: bool
    queued: bool
    reason: str | None
    doubt: str | None = None
    vanished: str = ""
    alike: tuple[tuple[int, ...], ...] = ()
    unsure: frozenset[int] = frozenset()

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """All that it may have gone."""
        return self.path, *self.alike


@dataclass(frozen=True, slots=True)
class Branch:
    """One possible path, where it stands, and which states of tables it ``met`` (`Book.meeting`)."""

    path: tuple[int, ...]
    state: State
    met: Met = ()


@dataclass(frozen=True, slots=True)
class Walk:
    """All paths that are possible so far.

    ``holes``: events that cannot follow directly were joined. ``torn``: so were some that no single ruleset
    explains.
    """

    branches: tuple[Branch, ...]
    headless: bool = False
    holes: bool = False
    torn: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing can follow, whichever way it was."""
        return not _short_of_the_limit(self) or all(
            branch.state.status == "ended" for branch in self.branches
        )


class Walker:
    """Steps and judges paths against the rulesets of a `Book`, remembering what it has seen."""

    def __init__(self, resolver: Book) -> None:
        self._resolver = resolver
        self._begun: dict[int, Walk] = {}
        self._steps: dict[tuple[State, Family, int, int, Met], State | None] = {}
        self._outcomes: dict[tuple[int, ...], tuple[Outcome, ...]] = {}

    def outcomes(self, path: tuple[int, ...]) -> tuple[Outcome, ...]:
        """How a packet that was seen at these places ended; empty if no packet can have been."""
        # Real traffic takes few paths; a made-up file may not.
        if len(self._outcomes) > _REMEMBERED:
            self._outcomes.clear()
        if path not in self._outcomes:
            walk: Walk | None = self.begin(path[0])
            for place in path[1:]:
                walk = self.step(walk, place) if walk else None
            self._outcomes[path] = self.judge(walk) if walk else ()
        return self._outcomes[path]

    def across_holes(self, path: tuple[int, ...], *, torn: bool) -> Outcome | None:
        """The outcome of a path whose rules are settled; None if no packet can have taken it.

        Events may be missing in it; ``torn``: it may have met old and new rules.
        """
        walk: Walk | None = self.begin(path[0])
        for place in path[1:]:
            if walk is None:
                return None
            walk = (
                self.step(walk, place)
                or self.leap(walk, place)
                or (self.tear(walk, place) if torn else None)
            )
        return self.judge(walk)[0] if walk else None

    def begin(self, place: int) -> Walk:
        """A path that begins here; headless unless TRACE can have been switched on just before.

        Always the same object for a place.
        """
        resolver = self._resolver
        if place not in self._begun:
            self._begun[place] = Walk(
                tuple(_begun_at(resolver, one) for one in resolver.choices[place]),
                headless=not resolver.places[place].starts,
            )
        return self._begun[place]

    def step(self, walk: Walk, place: int) -> Walk | None:
        """The path with one more event; None if it cannot follow."""
        branches = tuple(
            Branch((*branch.path, one), state, self._resolver.meeting(branch.met, one))
            for branch in _short_of_the_limit(walk)
            for one in self._resolver.choices[place]
            if (state := self._follow(branch, one)) is not None
        )
        return replace(walk, branches=branches[:_MOST_BRANCHES]) if branches else None

    def leap(self, walk: Walk, place: int) -> Walk | None:
        """As `step`, over events that are missing; None if ``place`` does not lie further on."""
        resolver = self._resolver
        branches = tuple(
            _begun_at(resolver, one, branch)
            for branch in _short_of_the_limit(walk)
            for one in resolver.choices[place]
            if resolver.families[branch.path[-1]] == resolver.families[one]
            and resolver.judging(one, branch.met).later(branch.state, resolver.places[one])
        )
        return replace(walk, branches=branches[:_MOST_BRANCHES], holes=True) if branches else None

    def tear(self, walk: Walk, place: int) -> Walk | None:
        """As `step`, between rulesets: a packet meets old and new rules while they are being changed."""
        resolver = self._resolver
        branches = tuple(
            _begun_at(resolver, one, branch)
            for branch in _short_of_the_limit(walk)
            for one in resolver.choices[place]
            if resolver.families[branch.path[-1]] == resolver.families[one]
            and branch.state.status != "ended"
        )
        return replace(walk, branches=branches[:_MOST_BRANCHES], torn=True) if branches else None

    def hook(self, walk: Walk) -> int:
        """The hook of the path's last event."""
        return self._resolver.places[walk.branches[0].path[-1]].hook

    def pass_(self, place: int) -> Pass:
        """The pass that a place belongs to."""
        return self._resolver.places[place].pass_

    def stands_at(self, walk: Walk, target: str) -> bool:
        """Whether the path's last event was a rule with this target."""
        return self._resolver.places[walk.branches[0].path[-1]].target == target

    def judge(self, walk: Walk) -> tuple[Outcome, ...]:
        """What became of a packet that went so and was not seen again: all that a reader could tell.

        Paths that read the same are one; where one is complete, those that break off are left out, unless
        that is because nobody saw the rules.
        """
        read: dict[tuple[object, ...], list[Branch]] = {}
        for branch in walk.branches:
            read.setdefault(self._reading(branch.path), []).append(branch)
        found = tuple(
            replace(self._outcome(walk, first), alike=tuple(one.path for one in others))
            for first, *others in read.values()
        )
        if not any(one.complete for one in found):
            return found
        return tuple(
            one for one in found if one.complete or self._unseen_table(one.path) is not None
        )

    def _follow(self, branch: Branch, place: int) -> State | None:
        resolver, last = self._resolver, branch.path[-1]
        key = (branch.state, resolver.families[last], resolver.states[last], place, branch.met)
        if key not in self._steps:
            if len(self._steps) > _REMEMBERED:
                self._steps.clear()
            self._steps[key] = (
                resolver.judging(place, branch.met).advance(branch.state, resolver.places[place])
                if self._together(last, place)
                else None
            )
        return self._steps[key]

    def _together(self, last: int, place: int) -> bool:
        """Whether both can be of one packet: a table is passed in one of its states."""
        resolver = self._resolver
        here, there = resolver.places[last], resolver.places[place]
        if resolver.families[last] != resolver.families[place]:
            return False
        if here.pass_ == there.pass_ and resolver.states[last] == resolver.states[place]:
            return True
        ahead = here.beside and here.base in resolver.attached[resolver.states[last]].ahead
        behind = there.beside and there.base in resolver.attached[resolver.states[place]].behind
        if here.pass_ != there.pass_:
            return not (ahead or behind)
        return (ahead and self._beside(last, place)) or (behind and self._beside(place, last))

    def _beside(self, attached: int, other: int) -> bool:
        """Whether a place is in a chain that was not in force beside the rules of the other place."""
        resolver = self._resolver
        return resolver.attached[resolver.states[attached]].beside == resolver.states[other]

    def _reading(self, path: tuple[int, ...]) -> tuple[object, ...]:
        """What a reader is told of a path; a rule that has moved is the same one, with its text."""
        places = (self._resolver.places[one] for one in path)
        return tuple(
            (
                one.table, one.chain, one.number if one.rule is None else one.rule.spec, one.ours, one.end,
                one.target,
            )
            for one in places
        )  # fmt: skip

    def _outcome(self, walk: Walk, branch: Branch) -> Outcome:
        grammar = self._resolver.judging(branch.path[-1], branch.met)
        state, path = branch.state, branch.path
        ended = grammar.may_end(state) and not _may_be_lost(self._resolver, path)
        verdict = "UNKNOWN"
        decider = None
        if state.status in ("ended", "open") and ended:
            verdict, decider = state.verdict or "UNKNOWN", len(path) - 1
        elif state.status == "queued":
            verdict, decider = "QUEUE", len(path) - 1
        elif ended:
            verdict, decider = "ACCEPT", self._accepted_by(path)
        reason = self._why_incomplete(walk, branch, ended=ended)
        vanished = "" if ended else self._vanished(branch)
        if vanished and (counted := self._resolver.meanwhile.get(self._resolver.families[path[0]])):
            reason = f"{reason}; {counted}"
        return Outcome(
            path=path,
            verdict=verdict,
            decider=decider,
            complete=reason is None,
            finished=grammar.must_end(state),
            queued=state.status == "queued",
            reason=reason,
            doubt=self._doubt(walk, branch, verdict),
            vanished=vanished,
        )

    def _vanished(self, branch: Branch) -> str:
        last = self._resolver.places[branch.path[-1]]
        grammar = self._resolver.judging(branch.path[-1], branch.met)
        gone = last.hook == _PREROUTING and grammar.may_leave_hook(branch.state)
        return f"{self._named(last.table)} {HOOKS[last.hook]}" if gone else ""

    def _doubt(self, walk: Walk, branch: Branch, verdict: str) -> str | None:
        if walk.torn:
            return TORN
        if branch.state.status == "open" and verdict != "UNKNOWN":
            return self._disbelief()
        return self._otherwise(branch) if verdict == "ACCEPT" else None

    def _disbelief(self) -> str | None:
        """SYNPROXY takes a packet, but for an ACK that it does not believe: that it drops."""
        acks = self._resolver.disbelieved
        if acks is None:
            return "SYNPROXY may have dropped it"
        dropped = "an ACK" if acks == 1 else f"{acks:,} ACKs"
        one = "this one" if acks == 1 else "this too"
        return (
            f"SYNPROXY dropped {dropped} meanwhile (cookie_invalid), perhaps {one}"
            if acks
            else None
        )

    def _otherwise(self, branch: Branch) -> str | None:
        """What may have become of an accepted packet that nobody tells of."""
        off, _ = self._switched_off(branch)
        return (
            "; ".join(filter(None, (self._refusal(branch.path), off and f"perhaps {off}"))) or None
        )

    def _switched_off(self, branch: Branch) -> tuple[str, bool]:
        """That a rule switched tracing off, in words, and whether it is sure; empty if none can have."""
        found, sure = self._resolver.grammars[branch.path[-1]].off_switches(branch.state)
        rules = (
            f"{one.table}/{one.chain} rule {one.number} (`meta nftrace set 0`)" for one in found
        )
        return (f"tracing was switched off by {' or '.join(rules)}" if found else ""), sure

    def _refusal(self, path: tuple[int, ...]) -> str | None:
        """Connection tracking may have dropped the first packet of a connection after the last rule."""
        refused = self._resolver.refused
        if not refused or not any(is_of_nat(self._resolver, one) for one in path):
            return None
        connections = "a new connection" if refused == 1 else f"{refused:,} new connections"
        return (
            f"connection tracking refused {connections} meanwhile (insert_failed), perhaps this one"
        )

    def _accepted_by(self, path: tuple[int, ...]) -> int:
        """The filter table's decision if it took one, else the last one."""
        places = [self._resolver.places[place] for place in path]
        accepted = [
            i
            for i, place in enumerate(places)
            if place.effect == "accept" and not (place.beside or place.ours)
        ]
        filtered = [i for i in accepted if plain(places[i].table) == "filter"] or [
            i for i in accepted if places[i].base is not None and places[i].hook in _FILTERING
        ]
        return (filtered or accepted or [len(path) - 1])[-1]

    def _why_incomplete(self, walk: Walk, branch: Branch, *, ended: bool) -> str | None:
        last = self._resolver.places[branch.path[-1]]
        if unseen := self._unseen_table(branch.path):
            return f"the rules of table {unseen} at that time are not known"
        if len(branch.path) == MOST_STEPS and not ended:
            return f"cut after {MOST_STEPS:,} steps: no more are put together"
        if walk.headless:
            return "its beginning was not recorded"
        if walk.holes:
            return HOLES
        if ended:
            return None
        if branch.state.status == "queued":
            return "handed to userspace; the answer was not seen"
        off, sure = self._switched_off(branch)
        if off and sure:
            return off
        if branch.state.status == "passed":
            return self._why_not_seen_again(branch, last, off and f"{off}, or ")
        if branch.state.status == "open" and last.target is not None:
            return f"target {last.target} may have ended it"
        why = f": {off}, or the events were lost" if off else ""
        return f"the trace breaks off after {_where(last)}{why}"

    def _why_not_seen_again(self, branch: Branch, last: Place, otherwise: str) -> str:
        after = f"{self._named(last.table)} {HOOKS[last.hook]}"
        if self._resolver.judging(branch.path[-1], branch.met).may_end(branch.state):
            return _NOTHING_TELLS.format(after)
        return _NOT_SEEN.format(after, otherwise)

    def _named(self, table: str) -> str:
        """A table as a reason names it."""
        ours = is_our_table(table, self._resolver.our_comment)
        return "iptrec's own table at" if ours else table

    def _unseen_table(self, path: tuple[int, ...]) -> str | None:
        """A table that was passed when nobody knew its rules."""
        resolver = self._resolver
        return next(
            (resolver.places[one].table for one in path if resolver.states[one] in resolver.unseen),
            None,
        )


def is_of_nat(book: Book, number: int) -> bool:
    """Whether a place is in NAT's rules, which only the first packet of a connection passes."""
    place = book.places[number]
    if place.base is None:
        return plain(place.table) == "nat"
    chains = book.grammars[number].ruleset.tables.get(place.table, {})
    base = chains[place.base].base if place.base in chains else None
    return base is not None and base.type == "nat"


def _begun_at(book: Book, place: int, before: Branch | None = None) -> Branch:
    """A path with one more event, whatever it was that led there."""
    path, met = ((), ()) if before is None else (before.path, before.met)
    met = book.meeting(met, place)
    return Branch((*path, place), book.judging(place, met).begin(book.places[place]), met)


def _may_be_lost(book: Book, path: tuple[int, ...]) -> bool:
    """Whether routing may have dropped an accepted packet after its last event."""
    last = book.places[path[-1]]
    if last.effect != "accept" or last.pass_ not in book.grammars[path[-1]].routed:
        return False
    # What a host sends has its way already, unless a rule changed it.
    return last.hook == _PREROUTING or any(
        place.pass_ == last.pass_ and place.rule is not None and not place.ours
        for place in (book.places[one] for one in path)
    )


def _short_of_the_limit(walk: Walk) -> tuple[Branch, ...]:
    """The branches that may go on; all have the same length."""
    return walk.branches if len(walk.branches[0].path) < MOST_STEPS else ()


def _where(place: Place) -> str:
    number = "its end" if place.end else f"rule {place.number}"
    return f"{place.table}/{place.chain} {number}"
