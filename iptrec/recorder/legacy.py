"""Traces of legacy iptables: TRACE rules in the raw tables, events by nfnetlink_log."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import arrivals, iptables, netns
from iptrec.kernel.legacy import logger, nflog, raw
from iptrec.kernel.legacy.replacements import Replacements
from iptrec.kernel.legacy.saved import source_of
from iptrec.kernel.legacy.states import State
from iptrec.kernel.legacy.watch import Watch
from iptrec.kernel.nft import bases
from iptrec.kernel.nft.raw import RAW_PRIORITY
from iptrec.kernel.undo import flushed
from iptrec.kernel.watch import Hole
from iptrec.names import counted
from iptrec.recorder.carried import CarriedTables, Kept
from iptrec.recorder.streams import Events
from iptrec.recorder.untraced import note_untraced
from iptrec.recording.kinds import SAVES
from iptrec.recording.writer import Blob

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from iptrec.errors import IptrecError
    from iptrec.names import Family
    from iptrec.recorder.backend import Evidence, Setting, Undo
    from iptrec.recorder.streams import Side

_STREAM: Final = "nflog"
_UNTOLD: Final = "changes of rules are found by looking, replacements of tables are not told: {}"
_TABLE: Final = re.compile(rb"^\*(.+)$", re.MULTILINE)
# What is quoted may hold what looks like lines.
_QUOTED: Final = re.compile(rb' "(?:[^"\\]|\\.)*"(?=[ \n])', re.DOTALL)
_TRIES: Final = 3  # to list rules that somebody changes meanwhile


class LegacyBackend:
    """See `backend.TraceBackend`."""

    gather_s = 0.002

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        options = setting.options
        for family in options.bytecodes:
            iptables.require(family)
            if options.flush:
                raw.require_way_back(family)
        self._rules = iptables.trace_rules(
            "legacy",
            setting.comment,
            options.bytecodes,
            options.interfaces,
            all_incoming=options.all_incoming,
        )
        (one, *_) = self._rules.values()  # of every family as many
        self._ours = Counter(rule.chain for rule in one)
        self._loggers: dict[Family, logger.Switched] = {}
        self._carried = CarriedTables()

    def open(self, opened: ExitStack) -> tuple[Sequence[Side], Events]:
        """Take the nflog group that TRACE uses."""
        options = self._setting.options
        self._replacements = self._told_of_replacements(opened)
        socket = opened.enter_context(
            nflog.NflogSocket(
                snaplen=options.snaplen,
                receive_buffer=options.receive_buffer,
                modprobe=options.modprobe,
                ring_bytes=options.tap_bytes,
                replacements=self._replacements,
            )
        )
        detail = {
            "group": nflog.GROUP,
            "conntrack": socket.conntrack,
            "stamps_ns": time.time_ns(),
            "passed_before": self._passed_before(),
        }
        return (), Events(socket, _STREAM, detail, arrivals.of_nflog)

    def _told_of_replacements(self, opened: ExitStack) -> Replacements | None:
        """When tables are replaced, where the kernel allows it to be told."""
        try:
            return opened.enter_context(Replacements(netns.inode()))
        except HostError as error:
            self._setting.report.detail(_UNTOLD.format(error))
            return None

    def _passed_before(self) -> list[tuple[str, str, str]]:
        """The chains of nf_tables before our rules; none where it has no rules, or is recorded as well."""
        if self._setting.options.backend != "legacy":
            return []
        with contextlib.suppress(HostError):
            known = bases.bases()
            note_untraced(self._setting.report, known, RAW_PRIORITY)
            return [one[:3] for one in bases.passed_before(known, RAW_PRIORITY)]
        return []

    def prepare(self, undo: Undo) -> None:
        """Let TRACE go to nfnetlink_log."""
        setting = self._setting
        for family in self._rules:
            switched = logger.switch(
                family,
                modprobe=setting.options.modprobe,
                expect=partial(setting.guardian.expect_logger, family),
            )
            undo.step(switched.undo)
            setting.report.detail(f"nf_log of {family} was {switched.before}")
            self._loggers[family] = switched

    def insert(self, evidence: Evidence, undo: Undo) -> None:
        """Our rules on top of the raw tables."""
        self._evidence = evidence
        # It begins to listen to the lock before anything is changed.
        self.watch = Watch(
            self._rules, self._loggers, self._found, self._setting.guardian, self._replacements
        )
        for family, ours in self._rules.items():
            self._insert(family, ours, undo)
        if not self.watch.follows() and self._replacements is not None:
            self._setting.report.detail(_UNTOLD.format("those by our own rules were not told"))
        undo.callback(self.watch.stop)

    def _insert(self, family: Family, rules: Sequence[iptables.TraceRule], undo: Undo) -> None:
        flush, guardian = self._setting.options.flush, self._setting.guardian

        def expect(taken_out: list[str]) -> None:
            self._evidence.taken_out(family, taken_out)
            guardian.expect_rules("legacy", family, taken_out)

        there = raw.rules(family)  # what cannot be looked at could not be undone either
        # Registered first: an insertion that fails half way is looked for as well.
        undo.step(partial(guardian.undo_rules, "legacy", family))
        if flush:
            raw.replace(rules, expect)
        else:
            guardian.expect_rules("legacy", family, [])
            iptables.insert(rules)
        if again := flushed.started_again(raw.made_anew(there, flush=flush), family, "legacy"):
            undo.callback(self._setting.report.note, again)

    def baseline(self, evidence: Evidence) -> None:
        """The rulesets as they are now, and what the watch compares with."""
        for family in self._rules:
            tables = self.watch.loaded(family) or _tables(iptables.save(family)[1])
            changed = self.watch.noted(family, tables)
            for _ in range(_TRIES):
                held_ns = time.time_ns()
                command, text = iptables.save(family)
                meanwhile = self.watch.noted(family, tables)
                changed = meanwhile | changed
                if not meanwhile:
                    break
            for table, until_ns in changed.items():
                unknown = _unknown(family), source_of(table), table.encode()
                self._keep_first(evidence, Kept.of(*unknown, until_ns))
            self._keep_first(evidence, Kept.of(SAVES[family], command, text, held_ns))
            self.watch.unsure(family, list(meanwhile))
            count = text.count(b"] -A ")
            self._setting.report.detail(
                f"{family}: {counted(count, 'rule')} in force, ours included"
            )

    def _keep_first(self, evidence: Evidence, one: Kept) -> None:
        one.store(evidence)
        self._carried.begin(one)

    def carry(self, evidence: Evidence) -> None:
        """The states of all tables that were found, from the one on that held then."""
        self._carried.store(evidence)

    def matched(self) -> dict[str, int]:
        """By the rules' own counters."""
        comment = self._setting.comment
        return {
            f"legacy {family} {chain}": packets
            for family in self._rules
            for chain, packets in raw.matched(family, comment).items()
        }

    def take_last_changes(self, evidence: Evidence) -> None:
        """Nothing: a table is in force when it is told."""

    def conclude(self) -> None:
        """Nothing: the watch has seen all, in which our rules still had their places."""

    def traversals(self, data: bytes) -> int:
        """Events of the raw table but for our own rules': the ends of its chains."""
        ours = sum(
            data.count(b"TRACE: raw:%s:rule:%d " % (chain.encode(), number))
            for chain, rules in self._ours.items()
            for number in range(1, rules + 1)
        )
        return data.count(b"TRACE: raw:") - ours

    def caught_up(self) -> None:
        """Note that nobody was changing rules: the nearer to a change, the fewer packets are unsure."""
        self.watch.caught_up(time.time_ns())

    def _found(self, finding: State | Hole | IptrecError) -> None:
        """Hand over; in the watch's thread: hashing and compressing do not hold up the loop."""
        match finding:
            case State():
                content = finding.content
                blob = Blob.of(finding.table.encode() if content is None else content)
                self._setting.findings.put(partial(self._store, finding, blob))
            case Hole():
                self._setting.findings.put(partial(self._evidence.hole, _STREAM, finding))
            case _:
                self._setting.trouble(finding)

    def _store(self, state: State, blob: Blob) -> None:
        """A table that changed; the name of one whose content nobody saw."""
        kind = SAVES[state.family] if state.content is not None else _unknown(state.family)
        one = Kept(kind, state.source, blob, state.time_ns, state.after_ns)
        one.store(self._evidence)
        since_ns = self._evidence.streams.since_ns
        self._carried.add((state.family, state.table), one, since_ns)


def _unknown(family: Family) -> str:
    return SAVES[family].replace("-save", "-unknown")


def _tables(text: bytes) -> list[str]:
    """The tables in what iptables-save printed."""
    return [name.decode() for name in _TABLE.findall(_QUOTED.sub(b"", text))]
