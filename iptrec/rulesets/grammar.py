"""Which events can follow which: the walk of one packet through one ruleset, as a state machine.

The kernel logs each rule that matches, each end of a chain, nothing else (net/ipv4/netfilter/
ip_tables.c, ipt_do_table). Given the ruleset, what follows an event is known except for what the
conditional rules decide: a jump goes to the head of its chain, a return to the rules after the call,
a goto leaves no return, an unconditional rule cannot be passed over, a table that ends with ACCEPT
hands over to the next table of the hook. `Place` is what one event names; `State` is where the walk
stands after it; `Grammar.follow` is the transition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from iptrec.decode.rulesets.nft_json import TAG
from iptrec.names import HOOKS

if TYPE_CHECKING:
    from iptrec.decode.prefix import Prefix
    from iptrec.decode.rulesets.types import Chain, Rule, Ruleset

# include/uapi/linux/netfilter.h, enum nf_inet_hooks
_PREROUTING, _INPUT, _FORWARD, _OUTPUT, _POSTROUTING = range(5)

# The tables of each hook in the order of their priorities (linux/netfilter_ipv4.h).
_TABLES: Final = {
    _PREROUTING: ("raw", "mangle", "nat"),
    _INPUT: ("mangle", "filter", "security", "nat"),
    _FORWARD: ("mangle", "filter", "security"),
    _OUTPUT: ("raw", "mangle", "nat", "filter", "security"),
    _POSTROUTING: ("mangle", "nat"),
}
ROUTES: Final = (
    (_PREROUTING, _INPUT),
    (_PREROUTING, _FORWARD, _POSTROUTING),
    (_OUTPUT, _POSTROUTING),
)
_RAW: Final = "raw"  # where TRACE works, and so the first table that is traced


class Stage(NamedTuple):
    """The pass through a table at a hook; in nf_tables through one of its base chains."""

    hook: int
    table: str
    base: str | None = None


# The stages of each route with their order; nothing tells which of two with equal numbers comes first.
Routes = tuple[dict[Stage, int], ...]
_ROUTES: Final[Routes] = tuple(
    {
        stage: order
        for order, stage in enumerate(
            Stage(hook, table) for hook in route for table in _TABLES[hook]
        )
    }
    for route in ROUTES
)

PASSING: Final = frozenset(
    [
        "AUDIT",
        "CHECKSUM",
        "CLASSIFY",
        "CONNMARK",
        "CONNSECMARK",
        "CT",
        "DNPT",
        "DSCP",
        "ECN",
        "HL",
        "HMARK",
        "IDLETIMER",
        "LED",
        "LOG",
        "MARK",
        "NFLOG",
        "NOTRACK",
        "RATEEST",
        "SECMARK",
        "SET",
        "SNPT",
        "TCPMSS",
        "TCPOPTSTRIP",
        "TEE",
        "TOS",
        "TRACE",
        "TTL",
        "ULOG",
    ]
)
_ACCEPT: Final = frozenset(
    ["ACCEPT", "DNAT", "MASQUERADE", "NETMAP", "REDIRECT", "SAME", "SNAT", "TPROXY"]
)
_QUEUE: Final = frozenset({"QUEUE", "NFQUEUE"})
_VERDICTS: Final = frozenset({"ACCEPT", "DROP", "QUEUE", "RETURN"})  # "standard" targets
_ENDS: Final = {"DROP": "DROP", "REJECT": "REJECT", "TARPIT": "DROP", "DELUDE": "REJECT"}

EffectKind = Literal["continue", "jump", "goto", "return", "accept", "end", "queue", "unknown"]
_COMMENTS_ONLY = re.compile(
    r'(?:-m comment --comment (?:"(?:\\.|[^"\\])*"|[^"\s]\S*)(?: |$))*(?:-[jg] |$)'
)


@dataclass(frozen=True, slots=True)
class Place:
    """What one event names: a rule of a chain, or the chain's end.

    ``index`` is the kernel's number, our own rules counted; ``number`` the user's, None at the end of
    a chain and for our own rules. ``rule`` is None at the end and where the ruleset does not know it.
    ``effect`` is what comes next: with ``argument`` the chain of a jump or goto, the verdict of an end.
    ``base``: in nf_tables, the base chain that is being passed; None in legacy iptables, where each hook has
    one of a table. ``starts``: whether a trace can begin here. ``rank``: which stage of its hook it is.
    """

    hook: int
    table: str
    chain: str
    index: int
    number: int | None
    end: bool
    builtin: bool
    own: bool
    rule: Rule | None
    effect: EffectKind
    argument: str | None = None
    starts: bool = False
    rank: int = 0
    base: str | None = None

    @property
    def stage(self) -> Stage:
        """The pass through one table, or base chain of nf_tables, at one hook."""
        return Stage(self.hook, self.table, self.base)

    @property
    def target(self) -> str | None:
        """The target as a reader expects it: the rule's, the policy, RETURN, or what the kernel told."""
        if self.rule is not None:
            return self.rule.target
        match self.effect:
            case "end" | "jump" | "goto":
                return self.argument
            case "return" | "accept" | "queue":
                return self.effect.upper()
            case _:
                return None

    @property
    def nameless(self) -> bool:
        """Whether it is a rule that has no number: of nf_tables, and not in the ruleset that was recorded."""
        return not self.end and not self.own and self.number is None

    @property
    def explained(self) -> bool:
        """Whether the ruleset knows this place."""
        return self.end or self.rule is not None


_Frame = tuple[str, int]
_DEEPEST: Final = (
    256  # chains that call each other; the kernel refuses circles, a made-up file has them
)


@dataclass(frozen=True, slots=True)
class State:
    """Where the walk stands after an event.

    ``frames``: (chain, index of its last matched rule) of the current chain last, its callers before
    it; None in front when the callers were not seen. ``status``: "walking" in a table, "passed" (the
    table accepted), "queued", "ended" (``verdict`` says how), "open" (the target may have ended the
    walk or not).
    """

    stage: Stage
    frames: tuple[_Frame | None, ...]
    status: Literal["walking", "passed", "queued", "ended", "open"]
    verdict: str | None = None


@dataclass(slots=True)
class _ChainShape:
    """What the walk needs of a chain: its length, our own rules in it, the rules that always match."""

    size: int
    own: frozenset[int]
    certain: tuple[int, ...]

    def barrier(self, index: int) -> int:
        """The last index that can match next after ``index``."""
        return next((rule for rule in self.certain if rule > index), self.size + 1)


@dataclass(slots=True)
class Grammar:
    """One family's ruleset as a state machine.

    ``own_comment`` marks the recorder's own rules; ``late`` are the tables that were loaded while it
    recorded, which log nothing before.
    """

    ruleset: Ruleset
    own_comment: str | None = None
    late: frozenset[str] = frozenset()
    routes: Routes = _ROUTES
    _shapes: dict[tuple[str, str], _ChainShape | None] = field(default_factory=dict)

    def place(self, prefix: Prefix, hook: int) -> Place:
        """Resolve an event's prefix; the ruleset, not the kernel's word, tells rule from chain end."""
        chain = self._chain(prefix.table, prefix.chain)
        builtin = prefix.chain in HOOKS if chain is None else chain.policy is not None
        if builtin and prefix.chain in HOOKS:
            hook = HOOKS.index(prefix.chain)
        if chain is None or not _may_say(prefix, chain):
            return self._unknown_place(prefix, hook, builtin=builtin)
        shape = self._shape(prefix.table, prefix.chain)
        assert shape is not None  # noqa: S101 - the chain is known
        if prefix.rulenum == shape.size + 1:
            return Place(
                hook, prefix.table, prefix.chain, prefix.rulenum, None, True, builtin, False, None,
                *_policy_effect(chain), *_beginning(prefix.table, builtin=builtin),
            )  # fmt: skip
        rule = chain.rules[prefix.rulenum - 1]
        own = prefix.rulenum in shape.own
        number = prefix.rulenum - sum(index < prefix.rulenum for index in shape.own)
        return Place(
            hook, prefix.table, prefix.chain, prefix.rulenum, None if own else number, False, builtin,
            own, rule, *self._rule_effect(prefix.table, rule), *_beginning(prefix.table, builtin=builtin),
        )  # fmt: skip

    def begin(self, place: Place) -> State:
        """The state after a first event; where the walk came from is unknown inside a user's chain."""
        here = (place.chain, place.index)
        return self._after(place, (here,) if place.builtin else (None, here))

    def follow(self, state: State, place: Place) -> State | None:
        """The state after ``place``, or None where it cannot follow."""
        if len(state.frames) > _DEEPEST:
            return None
        if state.status in ("walking", "open") and place.stage == state.stage:
            frames = self._reach(state.frames, place)
            if frames is not None:
                return self._after(place, frames)
        if state.status in ("passed", "queued", "open") and place.builtin:
            # NF_REPEAT from userspace: the table is passed once more (net/netfilter/nf_queue.c).
            again = state.status == "queued" and place.stage == state.stage
            reached = (again or self._next(state, place)) and self._reachable_from(place, 0)
            return self._after(place, ((place.chain, place.index),)) if reached else None
        return None

    def may_end(self, state: State) -> bool:
        """Whether the kernel can have logged nothing more of the packet after this state."""
        if state.status == "ended":
            return True
        return state.status == "passed" and any(
            all(
                self._optional(stage)
                for stage, order in route.items()
                if order > route[state.stage]
            )
            for route in self.routes
            if state.stage in route
        )

    def must_end(self, state: State) -> bool:
        """Whether nothing can follow this state."""
        if state.status == "ended":
            return True
        return state.status == "passed" and not any(
            order >= route[state.stage] and stage != state.stage and self._exists(stage)
            for route in self.routes
            if state.stage in route
            for stage, order in route.items()
        )

    def later(self, state: State, place: Place) -> bool:
        """Whether ``place`` lies after ``state`` on some route, holes allowed: for lossy recordings."""
        if state.status == "ended":
            return False
        if state.stage == place.stage:
            return state.status in ("walking", "open")
        return any(
            state.stage in route
            and place.stage in route
            and route[state.stage] <= route[place.stage]
            for route in self.routes
        )

    def _chain(self, table: str, chain: str) -> Chain | None:
        return self.ruleset.tables.get(table, {}).get(chain)

    def _shape(self, table: str, name: str) -> _ChainShape | None:
        key = (table, name)
        if key not in self._shapes:
            chain = self._chain(*key)
            self._shapes[key] = None if chain is None else self._measure(chain)
        return self._shapes[key]

    def _measure(self, chain: Chain) -> _ChainShape:
        own = frozenset(
            index for index, rule in enumerate(chain.rules, 1) if is_own(rule, self.own_comment)
        )
        certain = tuple(
            index
            for index, rule in enumerate(chain.rules, 1)
            # Our rule's first match is not logged: it is what switches the log on.
            if index not in own and rule.target != "TRACE" and always_matches(rule)
        )
        return _ChainShape(self._size(chain), own, certain)

    def _size(self, chain: Chain) -> int:
        """The highest number before the chain's end."""
        return len(chain.rules)

    def _rule_effect(self, table: str, rule: Rule) -> tuple[EffectKind, str | None]:
        target = rule.target
        if target is None or target in PASSING:
            return "continue", None
        if target in self.ruleset.tables.get(table, {}):
            return ("goto" if rule.goto else "jump"), target
        if target == "RETURN":
            return "return", None
        if target in _ACCEPT:
            return "accept", None
        if target in _QUEUE:
            return "queue", None
        if target in _ENDS:
            return "end", _ENDS[target]
        return "unknown", None

    def _unknown_place(self, prefix: Prefix, hook: int, *, builtin: bool) -> Place:
        # The kernel's number: of a rule, or of the end behind the last one. Only the ruleset would tell.
        returned = prefix.type == "return"
        return Place(
            hook, prefix.table, prefix.chain, prefix.rulenum, prefix.rulenum, False, builtin, False, None,
            "return" if returned else "unknown", None, *_beginning(prefix.table, builtin=builtin),
        )  # fmt: skip

    def _after(self, place: Place, frames: tuple[_Frame | None, ...]) -> State:
        stage = place.stage
        match place.effect:
            case "continue":
                return State(stage, frames, "walking")
            case "jump":
                return State(stage, (*frames, (place.argument or "", 0)), "walking")
            case "goto":
                return State(stage, (*frames[:-1], (place.argument or "", 0)), "walking")
            case "return":
                return State(stage, self._unwound(place, frames[:-1]), "walking")
            case "accept":
                return State(stage, (), "passed")
            case "queue":
                return State(stage, (), "queued", "QUEUE")
            case "end":
                return State(stage, (), "ended", place.argument)
            case "unknown":
                return State(stage, frames, "open")

    def _unwound(
        self, place: Place, frames: tuple[_Frame | None, ...]
    ) -> tuple[_Frame | None, ...]:
        """Callers after a return; with none left the built-in chain's policy decides (underflow)."""
        if frames:
            return frames
        base = place.base
        if base is None:
            base = HOOKS[place.hook] if 0 <= place.hook < len(HOOKS) else ""
        shape = self._shape(place.table, base)
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

    def _reachable_from(self, place: Place, index: int) -> bool:
        shape = self._shape(place.table, place.chain)
        return place.index > index and (shape is None or place.index <= shape.barrier(index))

    def _next(self, state: State, place: Place) -> bool:
        """Whether a stage can be the next one that logs anything."""
        return any(
            route[state.stage] <= route[place.stage]
            and all(
                self._optional(stage)
                for stage, order in route.items()
                if route[state.stage] < order < route[place.stage]
            )
            for route in self.routes
            if state.stage in route and place.stage in route and place.stage != state.stage
        )

    def _optional(self, stage: Stage) -> bool:
        """A table never loaded logs nothing; nat sees only the first packet of a connection."""
        table = stage.table
        return table == "nat" or table in self.late or table not in self.ruleset.tables

    def _exists(self, stage: Stage) -> bool:
        return stage.table in self.ruleset.tables


def _may_say(prefix: Prefix, chain: Chain) -> bool:
    """Whether the kernel can call this place of the chain so (ip_tables.c, get_chainname_rulenum)."""
    if prefix.rulenum > len(chain.rules):
        return prefix.rulenum == len(chain.rules) + 1 and prefix.type != "rule"
    rule = chain.rules[prefix.rulenum - 1]
    plain = not rule.conditional and rule.target in _VERDICTS
    return plain == (prefix.type != "rule")


def _beginning(table: str, *, builtin: bool) -> tuple[bool, int]:
    """Whether a trace can begin in a chain, and its table's rank."""
    return builtin and table == _RAW, int(table != _RAW)


def is_own(rule: Rule, comment: str | None) -> bool:
    """Whether a rule is the recorder's, which has this comment, or one that cannot be read."""
    return comment is not None and rule.comment in (comment, TAG) and rule.target == "TRACE"


def always_matches(rule: Rule) -> bool:
    """Whether a rule matches every packet: no match at all, or nothing but comments."""
    return not rule.conditional or _COMMENTS_ONLY.match(rule.spec) is not None


def ends_chain(rule: Rule) -> bool:
    """Whether a packet that a rule matches meets no later rule of its chain."""
    return rule.goto or rule.target in _ACCEPT | _QUEUE | set(_ENDS) | {"RETURN"}


def _policy_effect(chain: Chain) -> tuple[EffectKind, str | None]:
    match chain.policy:
        case None:
            return "return", None
        case "ACCEPT":
            return "accept", "ACCEPT"
        case policy:
            return "end", policy
