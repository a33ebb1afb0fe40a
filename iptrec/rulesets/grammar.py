"""Which events can follow which: the walk of one packet through one ruleset, as a state machine.

The kernel logs each rule that matches, each end of a chain, nothing else (net/ipv4/netfilter/
ip_tables.c, ipt_do_table; net/netfilter/nf_tables_core.c, nft_do_chain). Given the ruleset, what follows an
event is known except for what the conditional rules decide: a jump goes to the head of its chain, a return
to the rules after the call, a goto leaves no return, an unconditional rule cannot be passed over, a table
that ends with ACCEPT hands over to the next pass of the hook. `Place` is what one event names; `State` is
where the walk stands after it; `Grammar.advance` is the transition. In what backends differ is data:
which passes there are, in which order, and which of them may be silent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from iptrec.names import HOOKS
from iptrec.rulesets.places import Pass
from iptrec.rulesets.table_names import plain
from iptrec.rulesets.targets import always_matches, is_ours, switches_off, switches_off_every

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.decode.rulesets.types import Chain, Ruleset
    from iptrec.rulesets.places import Place

# include/uapi/linux/netfilter.h, enum nf_inet_hooks
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(len(HOOKS))
ROUTES: Final = (
    (_PREROUTING, _INPUT),
    (_PREROUTING, _FORWARD, _POSTROUTING),
    (_OUTPUT, _POSTROUTING),
)

AROUND: Final = ("netdev", "bridge")  # families whose chains frames of every protocol pass

# The passes of each route with their order; nothing tells which of two with equal numbers comes first.
Routes = tuple[dict[Pass, int], ...]

_BESIDE: Final = "beside"

_Frame = tuple[str, "int | None"]
_DEEPEST: Final = (
    256  # chains that call each other; the kernel refuses circles, a made-up file has them
)


@dataclass(frozen=True, slots=True)
class State:
    """Where the walk stands after an event.

    ``frames``: (chain, index of its last matched rule) of the current chain last, its callers before
    it; None in front when the callers were not seen. ``status``: "walking" in a table, "passed" (the
    table accepted; ``verdict`` says where it was not in force), "queued", "ended" (``verdict`` says how),
    "open" (the target may have ended the walk or not; ``verdict`` says how, if that is known).
    """

    pass_: Pass
    frames: tuple[_Frame | None, ...]
    status: Literal["walking", "passed", "queued", "ended", "open"]
    verdict: str | None = None


class OffSwitch(NamedTuple):
    """A rule that switches tracing off; ``certain``: of every packet that comes so far in its chain."""

    table: str
    chain: str
    number: int | None
    certain: bool


@dataclass(slots=True)
class ChainShape:
    """What the walk needs of a chain: its length, our own rules in it, the rules that always match.

    ``size``: the highest index before the chain's end. ``handles``: the index of each rule that has one.
    """

    size: int
    ours: frozenset[int]
    certain: tuple[int, ...]
    handles: dict[int, int]

    def number(self, index: int) -> int | None:
        """The user's number of a rule, None for our own."""
        return None if index in self.ours else index - sum(ours < index for ours in self.ours)

    def barrier(self, index: int) -> int:
        """The last index that can match next after ``index``."""
        return next((rule for rule in self.certain if rule > index), self.size + 1)


@dataclass(slots=True)
class Grammar:
    """One family's ruleset as a state machine.

    ``our_comment`` marks the recorder's own rules. ``optional``: passes that need not log anything: of a
    table that was loaded while we recorded, of a chain of NAT, which sees the first packet of a connection
    alone. ``silent``: those that log nothing. ``routed``: those after which the kernel may look for the
    packet's way, a bridge for the port, and drops what has none: only a later pass tells that it did not.
    ``ranks``: which pass of its hook each one is, where a backend needs that. ``not_ip``: it is one of
    frames that are not IP.
    """

    ruleset: Ruleset
    our_comment: str | None
    routes: Routes
    optional: frozenset[Pass]
    silent: frozenset[Pass] = frozenset()
    routed: frozenset[Pass] = frozenset()
    ranks: dict[Pass, int] = field(default_factory=dict)
    not_ip: bool = False
    _shapes: dict[tuple[str, str], ChainShape | None] = field(default_factory=dict)
    _switches: bool | None = None  # whether any rule switches tracing off

    def without_ip(self) -> Grammar:
        """The same of frames that are not IP: they pass none of IP's chains, but those of ARP."""
        routes = tuple(
            {one: order for one, order in route.items() if one.table.partition(" ")[0] in AROUND}
            for route in self.routes
        )
        arp = self._of_arp()
        more = tuple(
            route | {one: max(route.values(), default=-1) + order for one, order in arp.items()}
            for route in routes
        )
        optional = self.optional | arp.keys()
        return replace(self, routes=routes + more, optional=optional, not_ip=True)

    def _of_arp(self) -> dict[Pass, int]:
        """The passes of what a host gets, numbered from 1; chains of equal priority have equal numbers."""
        found = {
            Pass(_INPUT, table, one.name): one.base.priority
            for table, chains in self.ruleset.tables.items()
            for one in chains.values()
            if one.base is not None and (one.base.family, one.base.hook) == ("arp", _INPUT)
        }
        order = sorted(set(found.values()))
        return {one: order.index(priority) + 1 for one, priority in found.items()}

    def begin(self, place: Place) -> State:
        """The state after a first event; where the walk came from is unknown inside a user's chain."""
        here = (place.chain, place.index)
        return self._after(place, (here,) if place.builtin else (None, here))

    def advance(self, state: State, place: Place) -> State | None:
        """The state after ``place``, or None where it cannot follow."""
        if len(state.frames) > _DEEPEST:
            return None
        if state.status in ("walking", "open") and place.pass_ == state.pass_:
            frames = self._reach(state.frames, place)
            if frames is not None:
                return self._after(place, frames)
        if state.status in ("passed", "queued", "open") and place.builtin:
            again = self._again(state, place) and place.pass_ == state.pass_
            reached = (again or self._next(state, place)) and self._reachable_from(place, 0)
            return self._after(place, ((place.chain, place.index),)) if reached else None
        return None

    def _again(self, state: State, place: Place) -> bool:
        """Whether a base chain may be passed once more.

        By NF_REPEAT from userspace (net/netfilter/nf_queue.c), and where one that is not in force has the name
        of one that is, as may be where nobody saw the rules.
        """
        two = place.beside or state.verdict == _BESIDE or (place.unseen and place.base is not None)
        return state.status == "queued" or two

    def may_end(self, state: State) -> bool:
        """Whether the kernel can have logged nothing more of the packet after this state."""
        if state.status == "ended" or (state.status == "open" and state.verdict is not None):
            return True
        return state.status == "passed" and any(
            all(one in self.optional for one, order in route.items() if order > route[state.pass_])
            for route in self.routes
            if state.pass_ in route
        )

    def leaves_hook(self, state: State) -> bool:
        """Whether no other pass of its hook need have logged the packet: the kernel takes it on from there."""
        here = state.pass_
        return state.status == "passed" and any(
            all(
                one.hook != here.hook or one in self.optional
                for one, order in route.items()
                if order > route[here]
            )
            for route in self.routes
            if here in route
        )

    def must_end(self, state: State) -> bool:
        """Whether nothing can follow this state."""
        if state.status == "ended":
            return True
        return state.status == "passed" and not any(
            order >= route[state.pass_] and one != state.pass_ and one not in self.silent
            for route in self.routes
            if state.pass_ in route
            for one, order in route.items()
        )

    def later(self, state: State, place: Place) -> bool:
        """Whether ``place`` lies after ``state`` on some route, holes allowed: for lossy recordings."""
        if state.status == "ended":
            return False
        if state.pass_ == place.pass_:
            return state.status in ("walking", "open")
        return any(
            state.pass_ in route
            and place.pass_ in route
            and route[state.pass_] <= route[place.pass_]
            for route in self.routes
        )

    def passed_beside(self, passes: Collection[Pass], ended: Pass | None) -> bool:
        """Whether all that has the same turn as one of these passes is among them, on some route.

        Nothing tells which of them comes first, so `advance` asks for none. ``ended``: the pass that ended the
        packet; others need not have come before it.
        """
        known = frozenset(passes)
        return any(
            known <= route.keys() and not self._missed(known, route, ended) for route in self.routes
        )

    def _missed(self, passes: frozenset[Pass], route: dict[Pass, int], ended: Pass | None) -> bool:
        turns = {route[one] for one in passes} - ({route[ended]} if ended else set())
        return any(
            order in turns and one not in passes and one not in self.optional
            for one, order in route.items()
        )

    def off_switches(self, state: State, seen: Collection[Pass]) -> tuple[list[OffSwitch], bool]:
        """The rules that may have switched tracing off next, and whether the packet must have met one.

        ``seen``: the passes that it was seen in.
        """
        found: list[OffSwitch] = []
        if self._switches is None:
            chains = (chain for table in self.ruleset.tables.values() for chain in table.values())
            self._switches = any(switches_off(rule) for chain in chains for rule in chain.rules)
        if not self._switches:  # as nearly always
            return found, False
        near = state.status == "walking"
        if near and (frame := state.frames[-1]) is not None and frame[1] is not None:
            found = self._switches_after(state.pass_.table, frame[0], frame[1])
        if state.status == "passed":
            ahead = [one for one in self.ahead(state.pass_) if one not in seen]
            found = [
                each for one in ahead for each in self._switches_after(one.table, one.base or "", 0)
            ]
            near = len(ahead) == 1 and ahead[0].hook == state.pass_.hook
        return found, near and any(one.certain for one in found)

    def _switches_after(self, table: str, name: str, index: int) -> list[OffSwitch]:
        chain, shape = self.chain(table, name), self.shape(table, name)
        if chain is None or shape is None:
            return []
        found = []
        for one in range(index + 1, min(shape.barrier(index), len(chain.rules)) + 1):
            rule = chain.rules[one - 1]
            if switches_off(rule):
                found.append(OffSwitch(table, name, shape.number(one), switches_off_every(rule)))
                if found[-1].certain:
                    break
        return found

    def ahead(self, here: Pass) -> list[Pass]:
        """The passes of which one can be the next that logs anything; of equal priorities nobody knows."""
        found = (
            one
            for route in self.routes
            if here in route
            for one, order in route.items()
            if order >= route[here]
            and one != here
            and all(
                other in self.optional
                for other, between in route.items()
                if route[here] < between < order
            )
        )
        return list(dict.fromkeys(found))

    def chain(self, table: str, name: str) -> Chain | None:
        """A chain of the ruleset, None if it has none of that name."""
        return self.ruleset.tables.get(table, {}).get(name)

    def is_of_nat(self, place: Place) -> bool:
        """Whether a place is in NAT's rules, which only the first packet of a connection passes."""
        if place.base is None:
            return plain(place.table) == "nat"
        chain = self.chain(place.table, place.base)
        return chain is not None and chain.base is not None and chain.base.type == "nat"

    def shape(self, table: str, name: str) -> ChainShape | None:
        """What the walk needs of that chain; measured once."""
        key = (table, name)
        if key not in self._shapes:
            chain = self.chain(*key)
            self._shapes[key] = None if chain is None else self._measure(chain)
        return self._shapes[key]

    def _measure(self, chain: Chain) -> ChainShape:
        rules = list(enumerate(chain.rules, 1))
        ours = frozenset(index for index, rule in rules if is_ours(rule, self.our_comment))
        certain = tuple(
            index
            for index, rule in rules
            # Our rule's first match is not logged: it is what switches the log on.
            if index not in ours and rule.target != "TRACE" and always_matches(rule)
        )
        handles = {rule.handle: index for index, rule in rules if rule.handle is not None}
        # nf_tables logs the end of a base chain before its policy.
        return ChainShape(len(rules) + (chain.base is not None), ours, certain, handles)

    def _after(self, place: Place, frames: tuple[_Frame | None, ...]) -> State:
        here = place.pass_
        match place.effect:
            case "continue":
                return State(here, frames, "walking")
            case "jump":
                return State(here, (*frames, (place.argument or "", 0)), "walking")
            case "goto":
                return State(here, (*frames[:-1], (place.argument or "", 0)), "walking")
            case "return":
                return State(here, self._unwound(place, frames[:-1]), "walking")
            case "accept":
                return State(here, (), "passed", _BESIDE if place.beside else None)
            case "queue":
                return State(here, (), "queued", "QUEUE")
            case "end":
                return State(here, (), "ended", place.argument)
            case "unknown":
                return State(here, frames, "open", place.argument)

    def _unwound(
        self, place: Place, frames: tuple[_Frame | None, ...]
    ) -> tuple[_Frame | None, ...]:
        """Callers after a return; with none left the built-in chain's policy decides (underflow)."""
        if frames:
            return frames
        base = place.base
        if base is None:
            base = HOOKS[place.hook] if 0 <= place.hook < len(HOOKS) else ""
        shape = self.shape(place.table, base)
        return ((base, shape.size if shape else 0),)

    def _reach(
        self, frames: tuple[_Frame | None, ...], place: Place
    ) -> tuple[_Frame | None, ...] | None:
        """The frames with ``place`` as the current chain's last match; None if it cannot be next."""
        here = (place.chain, place.index)
        if not frames or frames[-1] is None:  # the callers were not seen: anywhere in this table
            return (here,) if place.builtin else (None, here)
        chain, index = frames[-1]
        if chain != place.chain or not self._reachable_from(place, index):
            return None
        return (*frames[:-1], here)

    def _reachable_from(self, place: Place, index: int | None) -> bool:
        """Whether the place can be met next in its chain; nobody knows of one that is not in the ruleset."""
        if place.index is None or index is None:
            return True
        shape = self.shape(place.table, place.chain)
        return place.index > index and (shape is None or place.index <= shape.barrier(index))

    def _next(self, state: State, place: Place) -> bool:
        """Whether a pass can be the next one that logs anything."""
        here, there = state.pass_, place.pass_
        return any(
            turn <= route[there]
            and all(
                one in self.optional for one, order in route.items() if turn < order < route[there]
            )
            for route, turn in self._turns(here)
            if there in route and there != here
        )

    def _turns(self, here: Pass) -> Iterator[tuple[dict[Pass, int], int]]:
        """The routes that have a pass, with its turn there; a chain that is gone is the last of its hook."""
        gone = not any(here in route for route in self.routes)
        for route in self.routes:
            turns = [
                order
                for one, order in route.items()
                if one == here or (gone and one.hook == here.hook)
            ]
            if turns:
                yield route, max(turns)
