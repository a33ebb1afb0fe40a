"""Where events were: the passes through base chains, and the places in their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.decode.rulesets.types import Rule
    from iptrec.names import I64

EffectKind = Literal["continue", "jump", "goto", "return", "accept", "end", "queue", "unknown"]
Effect = tuple[EffectKind, "str | None"]

ONE_OF_SEVERAL: Final = "rule (which of several equal ones is not known)"
NO_HOOK: Final = 255  # where nobody knows it


class Pass(NamedTuple):
    """A pass through a table at a hook; in nf_tables through one of its base chains."""

    hook: int
    table: str
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Locations:
    """Where events were, as far as one can tell without their rules.

    ``events``: with the hooks that they were logged at. ``tables``: the table that each of their sites
    names, as readers know it; None if it names none. ``passed``: the number of each event's pass in
    ``passes``, shape (n,); the table of a pass is "" where the site alone names it.
    """

    events: TraceEvents
    tables: Sequence[str | None]
    passed: I64
    passes: Sequence[Pass]


@dataclass(frozen=True, slots=True)
class Place:
    """What one event names: a rule of a chain, or the chain's end.

    ``index`` is the kernel's number, our own rules counted, None where nobody knows it; ``number`` the
    user's, None at the end of a chain and for our own rules. ``rule`` is None at the end and where the
    ruleset does not know it. ``effect`` is what comes next: with ``argument`` the chain of a jump or goto,
    the verdict of an end. ``base``: in nf_tables, the base chain that is being passed; None in legacy
    iptables, where each hook has one of a table. ``starts``: whether a trace can begin here. ``rank``:
    which pass of its hook it is of. ``bridged``: in a table of the family bridge.
    ``contradicted``: the kernel told another verdict than that of the rule. ``rule_or_end``: a rule without
    conditions, or the end: legacy iptables calls both the same, and the rules of that time are not known.
    ``beside``: in a chain that was not in force, see `timeline.Attached`. ``late``: in a chain of our own that
    packets pass last, and which tells nothing but that. ``apart``: in a table of our own, which no reader is
    told of. ``by_match``: a match of the rule dropped a packet that it could not read; it is no hit.
    ``unseen``: nobody saw the rules of its table. ``told``: the words of a rule that is none of the ruleset's,
    by the text that was imported; ``several``: its chain has several of these words.
    """

    hook: int
    table: str
    chain: str
    index: int | None
    number: int | None
    end: bool
    builtin: bool
    ours: bool
    rule: Rule | None
    effect: EffectKind
    argument: str | None = None
    starts: bool = False
    rank: int = 0
    base: str | None = None
    bridged: bool = False
    contradicted: bool = False
    rule_or_end: bool = False
    beside: bool = False
    late: bool = False
    apart: bool = False
    by_match: bool = False
    unseen: bool = False
    told: str | None = None
    several: bool = False

    @property
    def pass_(self) -> Pass:
        """The pass through one table, or base chain of nf_tables, at one hook."""
        return Pass(self.hook, self.table, self.base)

    @property
    def target(self) -> str | None:
        """The target as a reader expects it: the rule's, the policy, RETURN, or what the kernel reported."""
        if self.rule is not None and not self.by_match:
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
        """Whether it is a rule without a number: of nf_tables, and not in the ruleset that was recorded."""
        return not self.end and not self.ours and self.number is None

    @property
    def what(self) -> str:
        """What it is of its chain, in words."""
        if self.end:
            return "its end"
        if self.ours:
            return "iptrec's own rule"
        if self.number is not None:
            return f"rule {self.number}"
        return ONE_OF_SEVERAL if self.several else "rule (not in the recorded ruleset)"

    @property
    def wordless(self) -> bool:
        """Whether it is a rule of which nobody saw the text."""
        return not self.end and not self.ours and self.rule is None

    @property
    def explained(self) -> bool:
        """Whether the ruleset knows this place."""
        # That a base chain has no further rule is told as a place of ours, without a rule; of a rule in a base
        # chain's pass the words may be missing, not the rule.
        known = self.rule is not None or (self.base is not None and self.number is not None)
        return not self.contradicted and (self.end or self.ours or known)
