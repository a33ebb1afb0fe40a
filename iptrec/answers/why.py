"""Why a packet ended as it did: the rules that it met and that did not match, and the one that did.

The kernel logs only rules that match. Between two events of a chain lie the rules that were evaluated
and did not; which condition failed is told by `matching`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from iptrec.answers.before import before_steps
from iptrec.answers.last_seen import near
from iptrec.answers.met import met
from iptrec.answers.origins import origin_of
from iptrec.context.devices import Devices
from iptrec.context.ipsets import IpSets
from iptrec.context.policies import over_time
from iptrec.context.routes import Routes
from iptrec.context.worlds import around
from iptrec.decode import nft_packets
from iptrec.decode.generations import BEFORE_ALL, LAST_OF_ALL
from iptrec.decode.snapshots import minutes_west
from iptrec.matching import judge
from iptrec.matching.bits import Bits
from iptrec.matching.facts import Facts, Judgement, Timezone
from iptrec.recording.hosts import of_namespace
from iptrec.rulesets.backends import is_single
from iptrec.rulesets.changes import Changes
from iptrec.rulesets.grammar import AROUND
from iptrec.rulesets.nft import NFT, followed
from iptrec.rulesets.nft_sets import NftSets, When
from iptrec.rulesets.table_names import family_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.before import Before
    from iptrec.answers.met import Met
    from iptrec.answers.origins import Origin
    from iptrec.answers.packets import Batch, Packets
    from iptrec.context.interfaces import Interfaces
    from iptrec.context.policies import Policies
    from iptrec.decode.events import TraceEvents
    from iptrec.decode.rulesets.types import Rule
    from iptrec.packets.model import Step, Traversal
    from iptrec.packets.window import Window
    from iptrec.recording.rows import Recording, Snapshot


PERHAPS: Final = "the rules changed just then: perhaps it was not there"
_INVALID: Final = 1  # NF_CT_STATE_BIT(...) of a packet that has no connection
# Since then traces of nf_tables tell the state of each packet that has a connection (nf_tables_trace.c).
_TELLS_STATE: Final = (6, 16)


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule that was evaluated and did not match. ``number`` counts the user's rules from 1.

    ``perhaps``: all that is known fits, but the rules changed just then, and it may not have been there.
    """

    number: int
    rule: Rule
    judgement: Judgement
    perhaps: bool = False

    @property
    def fits(self) -> bool | None:
        """Whether all that is known of the packet fits the rule; None where something is not known."""
        return None if self.perhaps else self.judgement.fits

    @property
    def because(self) -> str | None:
        """The condition that failed, or that it depends on; None where all that is known fits."""
        return PERHAPS if self.perhaps else self.judgement.because


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """A step, and the rules of its chain that were passed over before it.

    ``mark``: the packet's before and after, where both are known.
    """

    step: Step
    passed: tuple[Passed, ...]
    mark: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A packet, and why each of its steps came next.

    ``origin``: of the rule, or the policy, that decided; None where nobody knows whose it is.
    """

    packet: Traversal
    steps: tuple[ExplainedStep, ...]
    origin: Origin | None = None


def explain(recording: Recording, packets: Packets) -> Iterator[Explanation]:
    """Explain the selected packets."""
    explainer = Explainer(recording)
    for batch in packets.batches():
        for position in batch.positions.tolist():
            yield explainer.explain(batch, position)


class Explainer:
    """Explains packets of batches, which come in order and with objects."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._known: dict[int, Known] = {}

    def explain(self, batch: Batch, position: int) -> Explanation:
        """One of a batch's packets."""
        window, stream = batch.window, batch.window.stream
        if stream.id not in self._known:
            own = of_namespace(self._recording, stream.namespace)
            self._known[stream.id] = Known(own, stream.namespace, batch.interfaces)
        packet = batch.traversal(position)
        steps = _steps(self._known[stream.id], packet, window, position)
        return Explanation(packet, steps, _origin(packet, window, position))


def _origin(packet: Traversal, window: Window, position: int) -> Origin | None:
    """Of the rule that the packet's verdict names."""
    if packet.decided_by is None:
        return None
    assembly = window.assembly
    return origin_of(window.resolver, assembly.outcomes[assembly.outcome[position]])


def _steps(
    known: Known, packet: Traversal, window: Window, position: int
) -> tuple[ExplainedStep, ...]:
    """By the rules in force: of those that may have been by the first that a rule does not contradict.

    The steps read the same by all; where a rule has another number by some, these are not taken.
    """
    found: list[tuple[ExplainedStep, ...]] = []
    for path in window.assembly.outcomes[window.assembly.outcome[position]].paths:
        told = [*known.steps(packet, window, position, path)]
        steps = tuple(_explained(*one) for one in told)
        steps = (*(_begun(one, window.stream.kind) for one in steps[:1]), *steps[1:])
        same = all(step.rule == before.place.number for step, before, _ in told)
        if (same or not found) and not any(one.fits for step in steps for one in step.passed):
            return steps
        found.append(steps)
    return tuple(map(_doubted, *found[:1], zip(*found, strict=True)))


def _doubted(step: ExplainedStep, ways: tuple[ExplainedStep, ...]) -> ExplainedStep:
    """Leave open whether the rules were there that would have matched, and were not met on each of the ways."""
    met_each_time = set.intersection(*({one.rule.spec for one in way.passed} for way in ways))
    passed = (
        replace(one, perhaps=bool(one.fits) and one.rule.spec not in met_each_time)
        for one in step.passed
    )
    return replace(step, passed=tuple(passed))


def _begun(step: ExplainedStep, kind: str) -> ExplainedStep:
    """Without rules of TRACE before the first event of legacy iptables: one matched, and is not told of.

    net/ipv4/netfilter/ip_tables.c, ipt_do_table: a rule is logged before its target marks the packet.
    """
    if kind != "nflog":
        return step
    return replace(step, passed=tuple(one for one in step.passed if one.rule.target != "TRACE"))


def _explained(step: Step, before: Before, found: Met) -> ExplainedStep:
    mark = None
    if found.facts.mark is not None and before.mark_after is not None:
        mark = found.facts.mark, before.mark_after
    passed = (
        Passed(number, rule, _as_passed(judge(rule, facts))) for number, rule, facts in found.passed
    )
    return ExplainedStep(step, tuple(passed), mark)


def _as_passed(judgement: Judgement) -> Judgement:
    """What is said of a rule that the kernel passed over: if one condition alone is open, that one failed."""
    return replace(judgement, fits=False) if judgement.fails else judgement


class Known:
    """What a recording tells of one namespace beside its packets, over time."""

    def __init__(self, recording: Recording, namespace: int, interfaces: Interfaces) -> None:
        self._recording = recording
        self._namespace = namespace
        self._routes = Routes(recording, namespace, interfaces)
        self._ipsets = IpSets(recording, namespace)
        self._kernel = _release(recording.facts.kernel)

    @functools.cached_property
    def _nft_sets(self) -> NftSets:
        changes = Changes(self._recording, NFT.changes, NFT.stream, self._namespace)
        told = followed(self._nft_snapshots(), changes)
        return NftSets(self._nft_snapshots(), told, changes, single=is_single(self._recording))

    @functools.cached_property
    def _devices(self) -> Devices:
        return Devices(self._recording, self._namespace)

    @functools.cached_property
    def _policies(self) -> list[tuple[int, Policies]]:
        return over_time(self._recording, self._namespace)

    @functools.cached_property
    def _timezones(self) -> list[tuple[int, int | None]]:
        return [
            (one.time_ns, minutes_west(one.content))
            for one in self._recording.snapshots("timezone")
            if one.namespace == self._namespace
        ]

    def _nft_snapshots(self) -> Iterator[Snapshot]:
        snapshots = self._recording.snapshots(*NFT.snapshots)
        return (one for one in snapshots if one.namespace == self._namespace)

    def steps(
        self, packet: Traversal, window: Window, position: int, path: tuple[int, ...]
    ) -> Iterator[tuple[Step, Before, Met]]:
        """The steps of a packet on a path that it may have taken, and what it was at each."""
        before = before_steps(window, position, path)
        rows = window.assembly.events(position).tolist()
        told = (
            (one, self._facts(packet, step, one, window, rows))
            for one, step in zip(before, packet.steps, strict=True)
        )
        return zip(packet.steps, before, met(told), strict=True)

    def _facts(
        self, packet: Traversal, step: Step, before: Before, window: Window, rows: list[int]
    ) -> Facts:
        """What an event tells of a packet; ``rows``: all of its events."""
        events, row = window.events, before.row
        state = int(events.ct_state[row])
        traced = bool(events.trace[row] >= 0)  # by nf_tables
        told = self._kernel >= _TELLS_STATE and traced and events.payload[row] >= 0
        if told and not state:
            state = _INVALID
        time_ns = int(window.earliest_ns[row]), int(events.received_ns[row])
        moment = near(window, row)
        family, table = packet.family, before.place.table
        return Facts(
            header=_certain(step.header, window.stream.untold, family),
            mark=before.mark,
            in_=step.in_,
            out=step.out,
            physin=step.physin,
            physout=step.physout,
            source_mac=None if packet.link is None else packet.link["src"],
            fib=self._routes.at(moment),
            sets=self._ipsets.at(moment),
            ct_state=state,
            ct_status=_known(int(events.ct_status[row])),
            ct_direction=_known(int(events.ct_direction[row])),
            connection=packet.connection,
            bits=Bits(
                events.packet(row), events.frame(row), traced, nft_packets.behind(events, row)
            ),
            nft_sets=lambda name: self._nft_sets.at(
                When(time_ns, _generations(window, rows, row)), family, table, name
            ),
            time_ns=time_ns,
            in_type=_type_of(events, row),
            frames=family_of(before.place.table, packet.family) in AROUND,
            kernel=self._kernel,
            groups=lambda: self._groups(int(events.indev[row]), int(events.outdev[row]), moment),
            plain=lambda: self._without_ipsec(moment),
            hook=before.place.hook,
            timezone=self._timezone(moment),
            identified=packet.connection is not None
            and packet.connection.id == int(events.conntrack[row]),
        )

    def _groups(self, in_: int, out: int, moment: tuple[int, int]) -> tuple[int | None, int | None]:
        """Of the interfaces with two indexes."""
        devices = self._devices.at(moment)
        told = (devices.get(index) for index in (in_, out))
        first, second = (None if one is None else one.group for one in told)
        return first, second

    def _without_ipsec(self, moment: tuple[int, int]) -> bool | None:
        """Whether the lists before and after tell of no policies and states that would change packets."""
        lists, both = around(self._policies, moment)
        if not all(one.unused for one in lists):
            return False
        return True if both else None

    def _timezone(self, moment: tuple[int, int]) -> Timezone | None:
        """The host's; the kernel's where it was the same before and after."""
        told, both = around(self._timezones, moment)
        if not told:
            return None
        return Timezone(told[0] if both and len(told) == 1 else None)


def _type_of(events: TraceEvents, row: int) -> int | None:
    """The type of the interface that a packet came in by; 0: it came in by none."""
    told = events.intype[row] or (events.payload[row] >= 0 and not events.indev[row])
    return int(events.intype[row]) if told else None


def _generations(window: Window, rows: list[int], row: int) -> tuple[int, int]:
    """Between which generations of nf_tables' rules sets were looked up for an event, since the one before."""
    events = window.events
    if events.trace[row] < 0:
        return BEFORE_ALL, LAST_OF_ALL
    earlier = [one for one in rows[: rows.index(row)] if events.trace[one] >= 0]
    last = int(events.datagram[earlier[-1]]) if earlier else None
    sent_ns = int(events.sent_ns[row])
    return events.generations.looked_up(last, int(events.datagram[row]), sent_ns)


def _certain(header: dict[str, Any], untold: frozenset[str], family: str) -> dict[str, Any]:
    """Without TOS where its last bit is not told: "ecn", see `recording.rows.Stream`."""
    if "ecn" not in untold or family != "ipv4":
        return header
    return {name: value for name, value in header.items() if name != "tos"}


def _known(value: int) -> int | None:
    return None if value < 0 else value


def _release(kernel: str) -> tuple[int, int]:
    """A kernel's version as far as kernels differ in what `why` tells; (0, 0): not known."""
    found = re.match(r"Linux (\d{1,4})\.(\d{1,4})", kernel)
    return (int(found[1]), int(found[2])) if found else (0, 0)
