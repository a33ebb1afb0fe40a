"""What a view shows: one packet's path through one hook sequence, step by step.

A traversal is one pass of a packet from its first traced rule (raw PREROUTING or raw OUTPUT) to its
end. A looped-back packet makes two. These types are made only for packets that are shown; everything
before works on columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from iptrec.packets.ends import DISCARDED
from iptrec.rulesets.places import ONE_OF_SEVERAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.decode.conntrack import Connection
    from iptrec.decode.owners import Owner
    from iptrec.names import Backend
    from iptrec.packets.ends import End
    from iptrec.packets.outcome import Unordered
    from iptrec.rulesets.places import Place

LOST: Final = ("DROP", "REJECT", DISCARDED)  # verdicts of packets that did not get through
StepType = Literal["rule", "match", "policy", "return", "unknown"]


@dataclass(frozen=True, slots=True)
class RulePlace:
    """Where a decision was made. ``rule`` counts the user's rules from 1.

    None is the chain's end or, with ``unlisted``, a rule that the recorded ruleset does not have: of an
    anonymous chain of nf_tables. ``several``: one of equal rules, of an imported text that does not tell which.
    """

    table: str
    chain: str
    rule: int | None
    unlisted: bool = False
    several: bool = False

    @classmethod
    def of(cls, place: Place) -> Self:
        """Where an event was."""
        return cls(place.table, place.chain, place.number, place.nameless, place.several)

    @property
    def what(self) -> str:
        """What decided, of the chain."""
        if self.several:
            return ONE_OF_SEVERAL
        if self.unlisted:
            return "rule (not in the recorded ruleset)"
        return "policy" if self.rule is None else f"rule {self.rule}"


@dataclass(frozen=True, slots=True)
class CtInfo:
    """What conntrack knew of a packet when it entered a base chain; of nf_tables, from Linux 6.16 on.

    ``state``: a bit of NF_CT_STATE_BIT (2 established, 4 related, 8 new, 64 untracked). A packet without a
    connection has no ``id``, ``direction`` (0 original, 1 reply) and ``status`` (bits of enum
    ip_conntrack_status). None: not known.
    """

    id: int | None
    direction: int | None
    status: int | None
    state: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """One event of the kernel, resolved against the ruleset in force.

    ``type`` is the truth, not the kernel's word (nf_log's TRACE reports an unconditional rule as
    "policy" or "return"): "rule" is a rule that matched, "match" one whose match could not read the packet and
    dropped it, which counts for no rule, "return" and "policy" are the end of a user
    chain and of a built-in chain, where ``rule`` is None, "unknown" is either: rule ``rule`` if it is one.
    ``target`` is the rule's target, the policy's verdict, or "RETURN"; None where the ruleset does not know
    the rule.

    ``changed``: what differs in the packet (JSON header names, "mark", "in", "out") at this step from
    the step before, as (old, new). ``backend``: whose rule it is, where a recording holds both. ``ct``: None
    where the kernel told nothing of it. ``time_estimated``: when the kernel sent it was not noted, though it
    was of the events around it: ``time_ns`` is between theirs.
    """

    time_ns: int
    table: str
    chain: str
    type: StepType
    rule: int | None
    spec: str | None  # the rule as iptables-save prints it, without "-A CHAIN "
    comment: str | None
    target: str | None
    target_args: str | None  # "--to-destination 172.23.0.2:1242"
    mark: int | None  # None where no event tells it: see `recording.rows.Stream.untold`
    in_: str | None
    out: str | None
    physin: str | None
    physout: str | None
    header: dict[str, Any]  # the packet as it was at this rule; see decode.packet.header
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    backend: Backend | None = None
    ct: CtInfo | None = None
    time_estimated: bool = False


RelationKind = Literal[
    "looped-back", "answer-of-reject", "copy", "error-about", "carries", "carried-by", "reassembled"
]


@dataclass(frozen=True, slots=True)
class Related:
    """A traversal's relation to an earlier one.

    "looped-back": the same packet, which went out as that one. "answer-of-reject": made by the REJECT
    that ended that one. "copy": made out of that one, by TEE, for another port of a bridge, another
    interface or the local listeners of a multicast. "error-about": an ICMP error that quotes
    that packet, or one of its flow. "carries", "carried-by": the packet inside, the tunnel's packet.
    "reassembled": put together from that fragment and others.
    """

    kind: RelationKind
    packet: int  # its number


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the rules while we recorded: a rule "inserted" or "deleted", a "policy", a chain "renamed".

    ``rule`` is its number among the user's where it was seen, else None; ``spec`` its text, the policy's
    verdict, or the new name of ``chain``. ``time_ns``: when the new rules were first seen.
    """

    kind: Literal["inserted", "deleted", "policy", "renamed"]
    table: str
    chain: str
    rule: int | None
    spec: str | None
    time_ns: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet as it came, without its path: see `Traversal`."""

    number: int
    time_ns: int
    family: Literal["ipv4", "ipv6"]
    in_: str | None
    out: str | None
    header: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Traversal:
    """One packet's path, whole or as far as it was seen.

    ``verdict``: ACCEPT, DROP, REJECT, QUEUE, STOLEN, REASSEMBLED (a fragment), DISCARDED (by the kernel, behind
    the rules), or UNKNOWN where the end was not seen.
    ``reason``: one phrase for the reader why it is incomplete, ambiguous or UNKNOWN; None otherwise.
    ``altered_by``: the change of the rules that made it end as it did. ``connection``: what connection
    tracking knew, where it was recorded. ``end``: what became of it behind the rules, where that is known.
    ``uid``, ``gid``: of its socket, which sent it or is to get it, where the kernel tells them. ``owner``: of
    that socket, by the lists of sockets that were recorded. ``unordered``: chains of both backends among its
    steps of which nobody knows which came first. ``host``: where it was seen, if several recordings are read
    as one.
    """

    number: int  # of the traversal in the recording, from 1
    time_ns: int
    family: Literal["ipv4", "ipv6"]
    netns: str | None
    in_: str | None  # at the first step
    out: str | None
    header: dict[str, Any]  # at the first step
    link: dict[str, Any] | None  # {"src", "dst", "type"} of the first step that has one
    verdict: str
    decided_by: RulePlace | None
    complete: bool
    ambiguous: bool
    reason: str | None
    steps: tuple[Step, ...]
    related: tuple[Related, ...] = ()
    altered_by: Change | None = None
    connection: Connection | None = None
    end: End | None = None
    uid: int | None = None
    gid: int | None = None
    owner: Owner | None = None
    unordered: tuple[Unordered, ...] = ()
    host: str | None = None

    @property
    def time_estimated(self) -> bool:
        """As `Step.time_estimated`: ``time_ns`` is that of the first step."""
        return bool(self.steps) and self.steps[0].time_estimated


class Placed(Protocol):
    """A step, of one packet or of all on a path."""

    @property
    def table(self) -> str:
        """Of the chain."""

    @property
    def chain(self) -> str:
        """Its name."""

    @property
    def rule(self) -> int | None:
        """The number in the chain; None at its end, or where the rule was not recorded."""

    @property
    def type(self) -> StepType:
        """What matched."""


def decided_at(place: RulePlace | None, steps: Sequence[Placed]) -> int | None:
    """Which of the steps was at the place that decided; None where that was not seen."""
    if place is None:
        return None
    policy = place.rule is None and not place.unlisted
    wanted = place.table, place.chain, place.rule, policy
    for at in range(len(steps) - 1, -1, -1):
        step = steps[at]
        if (step.table, step.chain, step.rule, step.type == "policy") == wanted:
            return at
    return None
