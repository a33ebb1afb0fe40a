"""Traces of nf_tables: rules that set the trace bit, events by a multicast group of nfnetlink."""

from __future__ import annotations

import contextlib
import select
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, UsageError
from iptrec.kernel import arrivals, iptables
from iptrec.kernel.deadline import Deadline
from iptrec.kernel.nft import bases, counters, nftrace, raw, retold
from iptrec.kernel.nft import table as nft_table
from iptrec.kernel.nft.keeper import NftKeeper
from iptrec.kernel.nft.late import none_yet
from iptrec.kernel.nft.listing import iptables_speaks, number_of
from iptrec.kernel.nft.missed import Missed
from iptrec.kernel.nft.table import Own
from iptrec.kernel.nft.transactions import generation
from iptrec.kernel.nft.watch import NftState, NftWatch, Retold
from iptrec.kernel.undo import flushed
from iptrec.kernel.watch import Hole
from iptrec.names import FAMILIES, HOOKS
from iptrec.recorder.carried import CarriedRuleset, Kept
from iptrec.recorder.streams import Events, Side
from iptrec.recorder.traversals import Traversals
from iptrec.recorder.untraced import note_untraced
from iptrec.recording.writer import Blob

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack

    from iptrec.errors import IptrecError
    from iptrec.kernel.batches import Batch
    from iptrec.kernel.nft.bases import Base
    from iptrec.kernel.nft.late import Late
    from iptrec.kernel.questions import Question
    from iptrec.names import Family
    from iptrec.recorder.backend import Evidence, Setting, Undo

_STREAM, _CHANGES = "nftrace", "nftables"
_GATHER_S, _GATHER_CHANGING_S, _CHANGING_NS = 0.004, 0.0005, 1_000_000_000
# Changes that wait for the ruleset to be listed; beyond them neighbours are taken together.
_MOST_CHANGES: Final = 1000
_TOLD_WITHIN_S: Final = 0.5  # a new ruleset, unless the process that commits it gets no processor
_BEHIND: Final = tuple(map(HOOKS.index, ("INPUT", "FORWARD", "POSTROUTING")))


class NftBackend:
    """See `backend.TraceBackend`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        options = setting.options
        self._rules = iptables.trace_rules(
            "nft",
            setting.comment,
            options.bytecodes,
            options.interfaces,
            all_incoming=options.all_incoming,
        )
        self._own = _own_tables(setting, alone=not iptables_speaks(options.bytecodes))
        self._clock = ChangeClock()
        self._carried = CarriedRuleset()
        for family in self._rules if options.flush else ():
            raw.taken_out(
                family
            )  # what could not be put back is refused before anything is changed

    def open(self, opened: ExitStack) -> tuple[Sequence[Side], Events]:
        """Listen to changes of the ruleset and to traces."""
        options = self._setting.options
        self._changes = opened.enter_context(nftrace.ChangeSocket())
        self._events = opened.enter_context(
            nftrace.NftraceSocket(
                receive_buffer=options.receive_buffer, ring_bytes=options.tap_bytes
            )
        )
        changes = Side(
            self._changes,
            _CHANGES,
            {"group": nftrace.CHANGES},
            received=self._changed,
            missed=self._carried.forget,
        )
        events = Events(self._events, _STREAM, {"group": nftrace.GROUP}, self._gone)
        return (changes,), events

    def _changed(self, received_ns: int, datagram: bytes) -> None:
        """What the kernel told of the ruleset."""
        self._clock.changed(received_ns)
        self._carried.changed(received_ns, datagram, nftrace.generation_of(datagram))

    def prepare(self, undo: Undo) -> None:
        """Nothing: the events come without a switch."""

    def insert(self, evidence: Evidence, undo: Undo) -> None:
        """Our rules on top of the raw tables, or in a table of our own."""
        self._evidence = evidence
        # Of equal priorities a new chain is passed first.
        beside = not self._own.alone and any(map(raw.has_raw, self._rules))
        priority = raw.RAW_PRIORITY - (not beside)
        known = bases.bases()
        early = bases.passed_before(known, priority)
        early += (one for one in bases.passed_beside(known) if one.family == "bridge")
        self._own = replace(self._own, early=early)
        last = self._insert_late(known, undo)
        for family, ours in self._rules.items() if not self._own.alone else ():
            self._insert(family, ours, undo)
        if self._own.needed:
            undo.step(partial(nft_table.remove, self._setting.comment, nft_table.TRACING))
            self._setting.guardian.expect_table()
            self._own = self._own.made()
        note_untraced(
            self._setting.report, known, priority, self._own.traced, frames=self._own.frames
        )
        self._counted = Traversals(self._own)
        table, chains = self._own.first
        self._first = [arrivals.named(table, one) for one in chains]
        self._later = [arrivals.named(*one) for one in _behind(known, self._setting.comment)]
        # What a ring has let go of by then is not to be referred to.
        missed = Missed(again=bool(self._setting.options.ring))
        keeper = NftKeeper(
            self._setting.comment,
            self._rules,
            self._found,
            self._setting.guardian,
            self._own,
            last,
        )
        self.watch = NftWatch(self._found, missed, keeper)
        undo.callback(self.watch.stop)

    def _insert_late(self, known: Sequence[Base], undo: Undo) -> Late:
        """Chains that packets pass last, before anything is traced; they go after all that traces.

        Without them, of some packets nobody knows what became of them.
        """
        late = none_yet(self._setting.comment, self._rules).beside(known)
        undo.step(self._remove_late)  # the watch may insert some later on
        if late.needed:
            self._setting.guardian.expect_table()
            try:
                late.insert()
            except HostError as error:
                self._setting.report.note(str(error))
                return none_yet(self._setting.comment, ())
        return late

    def _remove_late(self) -> None:
        if self._setting.guardian.changes.table:
            nft_table.remove(self._setting.comment, nft_table.LATE)

    def _insert(self, family: Family, rules: Sequence[iptables.TraceRule], undo: Undo) -> None:
        guardian = self._setting.guardian
        undo.step(partial(guardian.undo_rules, "nft", family))
        guardian.expect_rules("nft", family, [])
        iptables.insert(rules)
        if self._setting.options.flush:
            self._take_out(family, undo)

    def _take_out(self, family: Family, undo: Undo) -> None:
        """After ours are in: what somebody puts before them comes before the rules that go back there."""
        taken_out = raw.taken_out(family)
        self._evidence.taken_out(family, raw.readable(taken_out))
        self._setting.guardian.expect_rules("nft", family, taken_out)
        raw.take_out(family, taken_out)
        if again := flushed.started_again(raw.matches(taken_out), family, "nft"):
            undo.callback(self._setting.report.note, again)

    def baseline(self, evidence: Evidence) -> None:
        """The ruleset as it is now; the changes up to here are our own."""
        self._list(evidence)
        if self._setting.options.flush:
            self._forget_events()

    def _list(self, evidence: Evidence) -> None:
        state = self.watch.baseline()
        self._keep(state, [Kept.of(*one, state.time_ns) for one in state.parts])
        evidence.streams.take_sides()
        self._clock.forget()

    def carry(self, evidence: Evidence) -> None:
        """The last listing and what was told since; listed again where something is missing in that."""
        self._events.tell_again()
        if self._carried.whole:
            self._carried.store(evidence, _CHANGES)
        else:
            self._list(evidence)

    def _forget_events(self) -> None:
        """Of packets that met ours together with rules that --flush took out: no ruleset has both."""
        self._events.forget()

    @property
    def gather_s(self) -> float:
        """Rules are known by their handles, not by time; while these change, better by time as well."""
        changing = time.monotonic_ns() - self._changes.rules_ns < _CHANGING_NS
        return _GATHER_CHANGING_S if changing else _GATHER_S

    def matched(self) -> dict[str, int]:
        """By the rules' own counters."""
        return counters.matched(self._setting.comment, self._rules)

    def take_last_changes(self, evidence: Evidence) -> None:
        """Up to the ruleset that is in force: it is told a little later."""
        end = Deadline(_TOLD_WITHIN_S)
        with contextlib.suppress(HostError):
            wanted = generation()
            while self._changes.generation < wanted and end.left_s:
                select.select([self._changes], [], [], end.left_s)
                evidence.streams.take_sides()

    def conclude(self) -> None:
        """What became of the ruleset since it was listed."""
        self.watch.conclude()

    def traversals(self, data: bytes) -> int:
        """Ends of the chain of ours that packets come to first."""
        return self._counted.of(data)

    def _gone(self, batch: Batch) -> Iterator[Question]:
        return arrivals.of_nftrace(batch, self._first, self._later)

    def caught_up(self) -> None:
        """Note when the kernel had told of no change: what was received met the rules as they were."""
        now = time.time_ns()
        if not select.select([self._changes], [], [], 0)[0]:
            self._clock.unchanged(now)

    def _found(self, finding: NftState | Retold | Hole | IptrecError) -> None:
        """Hand over; in the watch's thread: hashing and compressing do not hold up the loop."""
        match finding:
            case NftState():
                blobs = [Blob.of(one.content) for one in finding.parts]
                self._setting.findings.put(partial(self._store, finding, blobs))
            case Retold():
                blob = Blob.of(finding.content)
                self._setting.findings.put(partial(self._store_retold, finding, blob))
            case Hole():
                self._setting.findings.put(partial(self._evidence.hole, _STREAM, finding))
            case _:
                self._setting.trouble(finding)

    def _store(self, state: NftState, blobs: Sequence[Blob]) -> None:
        """A state that the ruleset was in."""
        after_ns = self._clock.began_after(state.after_ns, state.time_ns)
        kept = [
            Kept(part.kind, part.source, blob, state.time_ns, after_ns)
            for part, blob in zip(state.parts, blobs, strict=True)
        ]
        self._keep(state, kept)

    def _keep(self, state: NftState, kept: Sequence[Kept]) -> None:
        for one in kept:
            one.store(self._evidence)
        number = number_of(state.parts)
        if number is None:
            self._carried.add(kept)
        else:
            self._carried.list(kept, number)

    def _store_retold(self, found: Retold, blob: Blob) -> None:
        one = Kept(retold.KIND, "nft", blob, found.time_ns, found.after_ns)
        one.store(self._evidence)
        self._carried.tell(one)


class ChangeClock:
    """Tells when nf_tables' ruleset changed better than the watch, which lists it a moment later.

    The loop knows for each change when there was none yet. Times are of the epoch, ns.
    """

    def __init__(self) -> None:
        self._unchanged_ns = time.time_ns()
        self._changes: list[tuple[int, int]] = []  # when it was last unchanged, when we were told

    def unchanged(self, time_ns: int) -> None:
        """Note that no change had been told up to a time."""
        self._unchanged_ns = time_ns

    def changed(self, received_ns: int) -> None:
        """Note a change, together with the one before where no time was seen between them."""
        since = self._unchanged_ns
        together = len(self._changes) >= _MOST_CHANGES
        if self._changes and (together or self._changes[-1][0] == since):
            since, _ = self._changes.pop()
        self._changes.append((since, received_ns))

    def forget(self) -> None:
        """Forget the changes up to now: they were our own."""
        self._changes.clear()

    def began_after(self, after_ns: int, seen_ns: int) -> int:
        """After which time the changes came that made a state of the ruleset.

        It came to be after ``after_ns`` and not after ``seen_ns``, as far as the watch knows. To be called with
        times that go up: changes up to ``seen_ns`` are forgotten.
        """
        since = [
            unchanged
            for unchanged, received in self._changes
            if after_ns < received and unchanged <= seen_ns
        ]
        self._changes = [one for one in self._changes if one[0] > seen_ns]
        return max(after_ns, min(since, default=after_ns))


def _behind(known: Sequence[Base], comment: str) -> Iterator[tuple[str, str]]:
    """Chains that packets come to after PREROUTING, ours included; those that come later are not known."""
    for one in known:
        if one.family in ("ip", "ip6", "inet") and one.hook in _BEHIND:
            yield one.table, one.name
    for name in ("input", "postrouting"):
        yield nft_table.name(comment), name


def _own_tables(setting: Setting, *, alone: bool) -> Own:
    """Raises `UsageError` where they would be all that there is of our rules, and nft cannot say the filter."""
    options = setting.options
    if alone and options.flush:
        raise UsageError("--flush needs iptables-nft; on Debian: apt-get install iptables")
    families = list(options.bytecodes)
    matches: dict[Family, Sequence[str]] | None = None
    try:
        matches = {one: options.matches(options.filter, one) for one in families}
    except UsageError:
        if alone:
            raise
    return Own(
        setting.comment,
        families,
        options.interfaces,
        matches,
        alone,
        all_incoming=options.all_incoming,
        frames=options.filter is None and len(families) == len(FAMILIES),
    )
