"""Records: kernel sources into a file.

Everything that is changed on the host is undone in reverse order, whatever goes wrong in between: each
step is tried even if another one failed. The loop does as little as it can: it moves datagrams from the
socket into the file and counts what is missing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from iptrec import __version__
from iptrec.errors import EXIT_DONE, HostError, IptrecError, UsageError
from iptrec.kernel import (
    batches,
    conntrack,
    host,
    ipsets,
    iptables,
    links,
    netns,
    privileges,
    stamps,
)
from iptrec.kernel.child import Aside
from iptrec.kernel.detect import used
from iptrec.kernel.legacy import logger, nflog
from iptrec.kernel.legacy.watch import Hole, State, Watch
from iptrec.kernel.nft import nftrace, objects
from iptrec.kernel.nft import table as nft_table
from iptrec.kernel.nft.nftrace import CHANGES, ChangeSocket, NftraceSocket
from iptrec.kernel.nft.watch import NftState, NftWatch
from iptrec.kernel.undo import flushed
from iptrec.kernel.undo.guardian import Guardian
from iptrec.recording.rows import Facts, Loss
from iptrec.recording.writer import Blob, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from iptrec.names import Backend, Family
from queue import SimpleQueue

# man 8 iptables, -i: the beginning of a name (net/core/dev.c, dev_valid_name), without quotes.
_WILDCARD: Final = re.compile(r"[^\s/:\"\\]{0,14}\+")
_TICK_NS: Final = 100_000_000  # of the loop while something waits to be committed in time
_IDLE_NS: Final = 1_000_000_000  # while nothing does
_PROGRESS_NS: Final = 250_000_000
_GATHER_S: Final = 0.002  # lets events come together, so that each call fetches many;
_NFT_GATHER_S: Final = 0.004  # of nf_tables, whose rules are known by their handles, not by time
_SIDE_DATAGRAMS: Final = 1000  # at a time; the events come first
_MOST_CHANGES: Final = (
    1000  # of nf_tables that wait for the ruleset to be listed; then they are taken together
)
_QUIET_MS: Final = 50  # the last packets' events are in the socket within microseconds
_SETTLE_NS: Final = 500_000_000  # at most, where other packets never let it be quiet
_UNGUARDED_NS: Final = 500_000_000  # before another guardian is started
_RING_NS: Final = 1_000_000_000  # how often the ring is trimmed, at most,
_RING_SHARE: Final = 100  # and how much of its time it may be late
_GIVE_BACK_NS: Final = 60_000_000_000  # it takes a third of a millisecond
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HOLES: Final = {
    "rules-gone": "somebody removed our {} TRACE rules from the raw table: put back; not traced meanwhile",
    "logger-switched": "somebody switched net.netfilter.nf_log of {}: put back; not traced meanwhile",
}
# In a message that tells a policy: the table, then what the policy is (NFTA_TRACE_TABLE, NFTA_TRACE_POLICY).
_NFT_TABLE, _NFT_POLICY = 1, struct.pack("=HH", 8, 16)
_SOURCES: Final = {"ipsets": "ipset"}
_SNAPSHOT_KINDS: Final[dict[Family, str]] = {
    "ipv4": "iptables-save",
    "ipv6": "ip6tables-save",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What to record, and where to.

    ``bytecodes``: for each family that is recorded the filter as `xtables.TraceRule.bytecode`, None for
    all packets. ``duration_s``, ``packets``, ``max_bytes`` (of the file, about): when to stop by itself.
    ``ring_bytes``, ``ring_s``: keep the last events only. ``trigger``: a descriptor that something can be
    read from when it is time to stop, ``after_s`` later.
    ``backend``: "legacy", "nft", "both", or "auto": what has rules in the namespace.
    ``matches``: gives a filter in the words of nft, for where iptables-nft is missing.
    ``packets`` counts traversals by what they log in the raw table beside our own rule: exact while that
    table has no other rules that match; otherwise the recording stops early rather than late.
    """

    output: Path
    bytecodes: Mapping[Family, str | None]
    filter: str | None = None
    interfaces: Sequence[str] = ()
    netns: str | None = None
    force: bool = False
    flush: bool = False
    conntrack: bool = False
    backend: Literal["auto", "legacy", "nft", "both"] = "auto"
    modprobe: bool = True
    duration_s: float | None = None
    packets: int | None = None
    max_bytes: int | None = None
    ring_bytes: int | None = None
    ring_s: float | None = None
    trigger: int | None = None
    after_s: float = 0
    snaplen: int = 256
    matches: Callable[[str | None, Family], Sequence[str]] = lambda *_: ("",)
    command: Sequence[str] = ()
    argv: Sequence[str] = ()
    receive_buffer: int = batches.RECEIVE_BUFFER


@dataclass(slots=True)
class Progress:
    """How far the recording is.

    ``notes`` are for the user to read in the end, ``details`` for who asks for more (-v).
    """

    events: int = 0
    lost: int = 0
    packets: int = 0
    file_bytes: int = 0
    elapsed_ns: int = 0
    reason: str = ""
    exit_status: int = EXIT_DONE
    notes: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


def record(
    options: Options,
    progress: Callable[[Progress], None] = lambda _: None,
    begun: Callable[[int], None] = lambda _: None,
) -> Progress:
    """Record until a signal, the duration, the number of packets or the command's end.

    ``begun`` is called once, when events are recorded, with a descriptor of the file. ``progress`` is called
    a few times a second from then on, when there is something to note, and when it is over: ``reason`` is
    set then. Raises `IptrecError` for what cannot be done; nothing is changed on the host then, or it is
    undone.

    The process stays in the namespace that is recorded, and without the rights that recording does not
    need (`privileges`): a process that has more to do records in another one.
    """
    path = None if options.netns is None else netns.resolve(options.netns)
    privileges.require_net_admin()
    outside = netns.moved(path)
    try:
        with _signals() as wake:
            recording = _Recording(options, progress, begun, wake, outside)
            outcome = recording.run()
    finally:
        os.close(outside)
    # Signals are as they were, and nothing is left to undo: a command that we stopped may take its time.
    outcome.exit_status = recording.command_status()
    return outcome


_Socket = (
    links.LinkSocket | conntrack.ConntrackSocket | ChangeSocket | NftraceSocket | nflog.NflogSocket
)


@dataclass(frozen=True, slots=True)
class _Side:
    """A socket with few datagrams, and the stream that they go to."""

    socket: links.LinkSocket | conntrack.ConntrackSocket | ChangeSocket
    stream: int


@dataclass(frozen=True, slots=True)
class _NftFinding:
    """A state of nf_tables' ruleset, its parts hashed and compressed."""

    state: NftState
    blobs: list[Blob]


@dataclass(slots=True)
class _Source:
    """A socket that events come out of, the stream that they go to, and when it was last read."""

    socket: nflog.NflogSocket | NftraceSocket
    stream: int
    last_ns: int


class _Recording:
    def __init__(
        self,
        options: Options,
        tell: Callable[[Progress], None],
        tell_begun: Callable[[int], None],
        wake: _Wake,
        outside: int,
    ) -> None:
        self._options = options
        self._tell = tell
        self._tell_begun = tell_begun
        self._wake = wake
        self._outside = outside
        self._uuid = str(uuid.uuid4())
        self._comment = f"iptrec:{self._uuid}"
        self._groups = os.getgroups()
        self._progress = Progress()
        self._findings: SimpleQueue[
            Hole | IptrecError | tuple[State, Blob | None] | _NftFinding
        ] = SimpleQueue()
        self._found = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._child: subprocess.Popen[bytes] | None = None
        self._stop_ns: int | None = None
        self._trim_ns = 0
        self._give_back_ns = 0
        self._sources: list[_Source] = []
        # Of nf_tables: when it was last seen unchanged; for each change that time, and when it was told.
        self._unchanged_ns = time.time_ns()
        self._changes: list[tuple[int, int]] = []
        self._table: str | None = None  # of our own, as nft reads it
        self._not_undone: list[str] = []
        self._unguarded_ns: int | None = None  # since when

    def run(self) -> Progress:
        # First of all: a fork is best made while there is nothing that could be inherited.
        self._guardian = Guardian(self._comment, self._options.output)
        try:
            return self._run()
        finally:
            if self._not_undone:
                self._guardian.charge()
            else:
                self._guardian.dismiss()

    def _run(self) -> Progress:
        options = self._options
        try:
            backends = self._backends()
            with contextlib.ExitStack() as opened:
                sockets = self._open(backends, opened)
                self._check_interfaces(links.names())
                aside = Aside("the interfaces", lambda: {**links.dumps(), **ipsets.dumps()})
                opened.enter_context(aside)
                with Writer.create(options.output, self._facts(), force=options.force) as writer:
                    writer.keeps = False  # no file where nothing was recorded
                    self._namespace = writer.add_namespace(options.netns, netns.inode())
                    self._add_streams(writer, sockets)
                    self._record(backends, writer, aside)
        except IptrecError as error:
            if self._not_undone or self._guardian.changes.out:
                raise HostError(f"{error}; {self._left_behind()}") from None
            raise
        if self._not_undone or self._guardian.changes.out:
            raise HostError(f"recorded to {options.output}, but {self._left_behind()}")
        self._progress.file_bytes = writer.size
        return self._progress

    def command_status(self) -> int:
        """The command's exit status as a shell gives it; 0 where it was we who stopped first."""
        if self._child is None:
            return EXIT_DONE
        code = self._child.wait()
        if self._progress.reason != "command":
            return EXIT_DONE
        return code if code >= 0 else 128 - code

    def _backends(self) -> tuple[Backend, ...]:
        """Which are recorded; what they need is there."""
        wanted = self._options.backend
        backends: tuple[Backend, ...] = ("legacy", "nft") if wanted == "both" else ()
        if wanted == "auto":
            backends = used(self._options.bytecodes)
            if len(backends) > 1:
                self._note("legacy iptables and nf_tables both have rules here: both are recorded")
        elif wanted != "both":
            backends = (wanted,)
        if "legacy" in backends:
            for family in self._options.bytecodes:
                iptables.require(family)
        if "nft" in backends and not objects.iptables_speaks(self._options.bytecodes):
            self._table = self._own_table()
        return backends

    def _own_table(self) -> str:
        """Our rules without iptables-nft. Raises `UsageError` where nft cannot say what was asked for."""
        options = self._options
        if options.flush:
            raise UsageError("--flush needs iptables-nft; on Debian: apt-get install iptables")
        found = {one: options.matches(options.filter, one) for one in options.bytecodes}
        return nft_table.text(self._comment, found, options.interfaces)

    def _open(self, backends: Sequence[Backend], opened: contextlib.ExitStack) -> list[_Socket]:
        """All sockets, before anything is looked at: so nothing is missed."""
        options = self._options
        found: list[_Socket] = [opened.enter_context(links.LinkSocket())]
        if options.conntrack:
            found.append(opened.enter_context(conntrack.ConntrackSocket()))
        opened.enter_context(stamps.stamping())
        if "nft" in backends:
            found.append(opened.enter_context(ChangeSocket()))
            found.append(opened.enter_context(NftraceSocket(receive_buffer=options.receive_buffer)))
        if "legacy" in backends:
            events = nflog.NflogSocket(
                snaplen=options.snaplen,
                receive_buffer=options.receive_buffer,
                modprobe=options.modprobe,
            )
            found.append(opened.enter_context(events))
        return found

    def _add_streams(self, writer: Writer, sockets: Sequence[_Socket]) -> None:
        """The streams of events, and those beside them."""
        self._sides: list[_Side] = []
        for socket in sockets:
            kind, detail = _described(socket)
            if isinstance(socket, nflog.NflogSocket | NftraceSocket):
                detail |= {"receive_buffer": socket.receive_buffer, "slots": batches.SLOTS}
                detail |= self._ring()
                stream = writer.add_stream(self._namespace, kind, detail)
                self._sources.append(_Source(socket, stream, time.time_ns()))
                self._progress.details.append(f"receive buffer: {socket.receive_buffer:,} bytes")
                continue
            self._sides.append(_Side(socket, writer.add_stream(self._namespace, kind, detail)))
            if isinstance(socket, conntrack.ConntrackSocket):
                for datagram in conntrack.dump():
                    self._append(writer, self._sides[-1].stream, datagram)

    def _record(self, backends: Sequence[Backend], writer: Writer, aside: Aside) -> None:
        self._require_way_back(backends)
        self._snapshot(writer, "sysctls", "/proc/sys", json.dumps(host.sysctls()).encode())
        with contextlib.ExitStack() as undo:
            loggers = {
                family: self._switch_logger(family, undo)
                for family in (self._options.bytecodes if "legacy" in backends else ())
            }
            with contextlib.ExitStack() as rules:
                watches: list[Watch | NftWatch] = []
                if "legacy" in backends:
                    watches.append(self._trace_legacy(writer, loggers, rules))
                if "nft" in backends:
                    watches.append(self._trace_nft(writer, rules))
                self._snapshot_aside(writer, aside)
                self._start_command(rules)
                self._loop(writer, watches)
                for watch in watches:
                    watch.stop()
                # Again: what is there in the beginning and in the end was, or came and went.
                sets = undo.enter_context(Aside("the sets", ipsets.dumps))
                self._take_findings(writer)
            self._take_sides(writer)
            for source in self._sources:
                self._finish(source, writer)
            self._snapshot_aside(writer, sets)
        writer.close(time.time_ns(), self._progress.reason)

    def _trace_rules(self, backend: Backend) -> dict[Family, list[iptables.TraceRule]]:
        """Our rules of each family."""
        return {
            family: [
                iptables.TraceRule(family, chain, self._comment, interface, bytecode, backend)
                for chain in ("PREROUTING", "OUTPUT")
                for interface in (self._options.interfaces or (None,))
            ]
            for family, bytecode in self._options.bytecodes.items()
        }

    def _trace_legacy(
        self,
        writer: Writer,
        loggers: dict[Family, logger.Switched],
        undo: contextlib.ExitStack,
    ) -> Watch:
        """Our rules into legacy iptables, its rulesets into the file."""
        rules = self._trace_rules("legacy")
        watch = Watch(rules, loggers, self._hand_over, self._guardian)
        for family, ours in rules.items():
            self._insert_rules(writer, family, ours, undo)
        undo.callback(watch.stop)
        for family in rules:
            self._snapshot_rules(writer, family, watch)
        return watch

    def _trace_nft(self, writer: Writer, undo: contextlib.ExitStack) -> NftWatch:
        """The same for nf_tables."""
        rules = self._trace_rules("nft")
        watch = NftWatch(rules, self._hand_over, self._guardian, self._table)
        self._note_untraced()
        if self._table is not None:
            undo.callback(self._attempt, lambda: nft_table.remove(self._comment))
            self._guardian.expect_table()
            nft_table.insert(self._table)
        for family, ours in rules.items() if self._table is None else ():
            undo.callback(self._attempt, partial(self._guardian.undo_nft, family))
            self._guardian.expect_nft(family, [])
            iptables.insert(ours)
            if self._options.flush:
                self._take_out_nft(writer, family, undo)
        undo.callback(watch.stop)
        parts = watch.baseline()
        self._snapshot_nft(writer, parts, [Blob.of(one.content) for one in parts], time.time_ns())
        self._take_sides(writer)
        self._changes.clear()  # our own
        self._forget_nft_events()
        return watch

    def _take_out_nft(self, writer: Writer, family: Family, undo: contextlib.ExitStack) -> None:
        """After ours are in: what somebody puts before them comes before the rules that go back there."""
        taken_out = objects.taken_out(family)
        self._snapshot_taken_out(writer, family, objects.readable(taken_out))
        self._note_started_again(family, "nft", objects.matches(taken_out), undo)
        self._guardian.expect_nft(family, taken_out)
        objects.take_out(family, taken_out)

    def _forget_nft_events(self) -> None:
        """Of packets that met ours together with rules that --flush took out: no ruleset has both."""
        sockets = [one.socket for one in self._sources if isinstance(one.socket, NftraceSocket)]
        for socket in sockets if self._options.flush else ():
            with contextlib.suppress(batches.Overrun):
                while (batch := socket.receive()) and len(batch.lengths) == batches.SLOTS:
                    pass

    def _require_way_back(self, backends: Sequence[Backend]) -> None:
        """Refuse before anything is changed where --flush could not put back a rule."""
        for family in self._options.bytecodes if self._options.flush else ():
            if "legacy" in backends:
                iptables.require_way_back(family)
            if "nft" in backends:
                objects.taken_out(family)

    def _note_untraced(self) -> None:
        """Tell which chains packets pass before ours; of equal priorities a new chain is passed first."""
        beside = self._table is None and any(map(objects.has_raw, self._options.bytecodes))
        early = objects.passed_before(objects.RAW_PRIORITY - (not beside))
        if early:
            self._note(
                f"{', '.join(early)} may be passed before tracing begins: packets that are dropped there"
                " are not seen"
            )

    def _snapshot_nft(
        self,
        writer: Writer,
        parts: Sequence[objects.Part],
        blobs: Sequence[Blob],
        time_ns: int,
        after_ns: int | None = None,
    ) -> None:
        for part, blob in zip(parts, blobs, strict=True):
            writer.add_snapshot(self._namespace, part.kind, time_ns, part.source, blob, after_ns)

    def _ring(self) -> dict[str, float]:
        """What the stream says of itself: that older events were let go, as the user asked."""
        kept = {"ring_bytes": self._options.ring_bytes, "ring_s": self._options.ring_s}
        return {name: value for name, value in kept.items() if value is not None}

    def _snapshot_aside(self, writer: Writer, aside: Aside) -> None:
        for kind, content in aside.result().items():
            self._snapshot(writer, kind, _SOURCES.get(kind, "rtnetlink"), content)

    def _switch_logger(self, family: Family, undo: contextlib.ExitStack) -> logger.Switched:
        switched = logger.switch(
            family,
            modprobe=self._options.modprobe,
            expect=lambda before: self._guardian.expect_logger(family, before),
        )
        undo.callback(self._attempt, switched.undo)
        self._progress.details.append(f"nf_log of {family} was {switched.before}")
        return switched

    def _facts(self) -> Facts:
        options = self._options
        realtime, monotonic = host.clock()
        return Facts(
            uuid=self._uuid,
            iptrec=__version__,
            kernel=host.kernel(),
            host=host.hostname(),
            command=tuple(options.argv),
            filter=options.filter,
            families=tuple(options.bytecodes),
            interfaces=tuple(options.interfaces),
            snaplen=options.snaplen,
            started_ns=realtime,
            started_monotonic_ns=monotonic,
            byte_order=sys.byteorder,
        )

    def _check_interfaces(self, names: Sequence[str]) -> None:
        for interface in self._options.interfaces:
            wildcard = _WILDCARD.fullmatch(interface)
            if not wildcard and interface not in names:
                raise UsageError(f"no interface {interface!r} here; there are: {', '.join(names)}")

    def _insert_rules(
        self,
        writer: Writer,
        family: Family,
        rules: Sequence[iptables.TraceRule],
        undo: contextlib.ExitStack,
    ) -> None:
        def expect(taken_out: list[str]) -> None:
            self._snapshot_taken_out(writer, family, taken_out)
            self._guardian.expect_rules(family, taken_out)

        there = iptables.raw(family)  # what cannot be looked at could not be undone either
        again = iptables.made_anew(there, flush=self._options.flush)
        self._note_started_again(family, "legacy", again, undo)
        # Registered first: an insertion that fails half way is looked for as well.
        undo.callback(self._attempt, partial(self._guardian.undo_rules, family))
        if self._options.flush:
            iptables.replace(rules, expect)
        else:
            self._guardian.expect_rules(family, [])
            iptables.insert(rules)

    def _note_started_again(
        self,
        family: Family,
        backend: Backend,
        matches: Collection[str],
        undo: contextlib.ExitStack,
    ) -> None:
        """Tell in the end which rules of the user have lost what they had counted."""
        if text := flushed.started_again(matches, family, backend):
            undo.callback(self._progress.notes.append, text)

    def _snapshot_taken_out(self, writer: Writer, family: Family, taken_out: Sequence[str]) -> None:
        """What --flush takes out, in the file before it is out of the kernel."""
        lines = [line.encode("utf-8", "surrogateescape").decode("latin-1") for line in taken_out]
        self._snapshot(writer, "raw-table", family, json.dumps(lines).encode())

    def _attempt(self, step: Callable[[], None]) -> None:
        """One step of undoing; the next ones are done even if it fails."""
        try:
            step()
        except (IptrecError, OSError) as error:
            self._not_undone.append(str(error))

    def _left_behind(self) -> str:
        """What is not as it was before, and what to do."""
        found = []
        if self._not_undone:
            trying = "the guardian goes on trying; " if self._guardian.there else ""
            found.append(
                f"not everything could be undone ({'; '.join(self._not_undone)}): {trying}"
                "iptrec cleanup finds what is left"
            )
        for family, backend, lines in self._guardian.changes.out:
            table = f"{family} raw table{' of nf_tables' if backend == 'nft' else ''}"
            found.append(
                f"somebody changed the {table} meanwhile, so what --flush took out of it was not put back"
                f" ({len(lines)} rule{'s' if len(lines) > 1 else ''}): {self._way_back(lines)}"
            )
        return "; ".join(found)

    def _way_back(self, lines: Sequence[str]) -> str:
        if self._guardian.listed:
            return "iptrec cleanup prints it, iptrec cleanup --restore appends it"
        return ", ".join(lines)

    def _snapshot(self, writer: Writer, kind: str, source: str, content: bytes) -> None:
        writer.add_snapshot(self._namespace, kind, time.time_ns(), source, content)

    def _snapshot_rules(self, writer: Writer, family: Family, watch: Watch) -> None:
        """The rulesets as they are now, and what the watch compares with."""
        tables = watch.loaded(family) or _tables(iptables.save(family)[1])
        watch.baseline(family, tables)
        command, text = iptables.save(family)
        watch.baseline(family, tables)
        self._snapshot(writer, _SNAPSHOT_KINDS[family], command, text)
        count = text.count(b"] -A ")
        self._progress.details.append(f"{family}: {count} rules in force, ours included")

    def _hand_over(self, finding: State | NftState | Hole | IptrecError) -> None:
        """Called in the watch's thread: hashing and compressing do not hold up the loop."""
        if isinstance(finding, State):
            blob = None if finding.content is None else Blob.of(finding.content)
            self._findings.put((finding, blob))
        elif isinstance(finding, NftState):
            blobs = [Blob.of(one.content) for one in finding.parts]
            self._findings.put(_NftFinding(finding, blobs))
        else:
            self._findings.put(finding)
        os.eventfd_write(self._found, 1)

    def _take_findings(self, writer: Writer) -> None:
        """What the watch has found: into the file, and where events are missing to the user as well."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._found)
        while not self._findings.empty():
            match self._findings.get():
                case (State() as table, blob):
                    kind = _SNAPSHOT_KINDS[table.family]
                    if blob is None:
                        kind = kind.replace("-save", "-unknown")
                        blob = Blob.of(table.table.encode())
                    writer.add_snapshot(
                        self._namespace, kind, table.time_ns, table.source, blob, table.after_ns
                    )
                case _NftFinding() as found:
                    state = found.state
                    after = self._changed_after(state)
                    self._snapshot_nft(writer, state.parts, found.blobs, state.time_ns, after)
                case Hole() as hole:
                    stream = self._stream(hole.backend)
                    writer.add_loss(Loss(stream, hole.first_ns, hole.last_ns, None, hole.what))
                    self._note(_HOLES[hole.what].format(hole.family))
                case IptrecError() as error:
                    self._note(str(error))

    def _note(self, text: str) -> None:
        """Tell the user at once; the same thing once only."""
        if text not in self._progress.notes:
            self._progress.notes.append(text)
            self._tell(self._progress)

    def _stream(self, backend: Backend) -> int:
        """The stream of a backend's events."""
        kind = NftraceSocket if backend == "nft" else nflog.NflogSocket
        return next(one.stream for one in self._sources if isinstance(one.socket, kind))

    def _poll(self) -> select.poll:
        """All that the loop waits for."""
        poll = select.poll()
        for source in self._sources:
            poll.register(source.socket, select.POLLIN)
        poll.register(self._wake.descriptor, select.POLLIN)
        poll.register(self._found, select.POLLIN)
        if self._options.trigger is not None:
            poll.register(self._options.trigger, select.POLLIN)
        for side in self._sides:
            poll.register(side.socket, select.POLLIN)
        return poll

    def _loop(self, writer: Writer, watches: Sequence[Watch | NftWatch]) -> None:
        """Until there is a reason to stop."""
        progress = self._progress
        poll = self._poll()
        legacy = any(isinstance(one.socket, nflog.NflogSocket) for one in self._sources)
        gather_s = _GATHER_S if legacy else _NFT_GATHER_S
        streams = {source.socket.fileno() for source in self._sources}
        started = told = time.monotonic_ns()
        writer.keeps = True
        # Whoever reads along is started with all rights, and gives them up by itself.
        self._tell_begun(writer.descriptor)
        privileges.keep(privileges.RECORDER)
        host.keep_freed_memory()
        self._tell(progress)
        for watch in watches:
            watch.start()  # last: what starts processes with preexec_fn is through
        while not progress.reason:
            ready = dict(poll.poll(self._timeout_ms(writer, started)))
            fetched = max(self._fetch(source, writer) for source in self._sources)
            if ready.keys() - streams:
                self._take_the_rest(poll, ready, writer)
            self._look_for_changes()
            if 0 < fetched < batches.SLOTS:
                time.sleep(gather_s)
            if writer.due:
                writer.commit()
            now = time.monotonic_ns()
            self._keep_guarded(watches)
            self._tend(writer, now)
            progress.elapsed_ns = now - started
            if now - told >= _PROGRESS_NS:
                progress.file_bytes = writer.stored_bytes
                self._tell(progress)
                told = now
            progress.reason = self._wake.stopped(self._child) or self._limit(writer)
        self._tell(progress)
        if progress.reason in ("command", "packets"):
            self._settle(writer)

    def _keep_guarded(self, watches: Sequence[Watch | NftWatch]) -> None:
        """Start the guardian again where it was killed, as soon as no watch is at work: it is a fork.

        Not at once: whoever kills both does so one after the other, and means both.
        """
        now = time.monotonic_ns()
        if self._guardian.ended():
            self._unguarded_ns = now
        if self._unguarded_ns is None or now < self._unguarded_ns + _UNGUARDED_NS:
            return
        with contextlib.ExitStack() as resting:
            for watch in watches:
                if not watch.working.acquire(blocking=False):
                    return
                resting.callback(watch.working.release)
            self._unguarded_ns = None
            try:
                self._guardian.renew()
            except HostError as error:
                self._note(
                    f"the guardian ended and cannot be started again: {error}; if this process is killed as"
                    " well, run iptrec cleanup"
                )
            else:
                self._note("somebody killed the guardian: started again")

    def _look_for_changes(self) -> None:
        """Note that nf_tables has told of none up to now: what was received met the rules as they were."""
        now = time.time_ns()
        changes = [one.socket for one in self._sides if isinstance(one.socket, ChangeSocket)]
        if changes and not select.select(changes, [], [], 0)[0]:
            self._unchanged_ns = now

    def _note_change(self, received_ns: int) -> None:
        """One of nf_tables that was received: with the one before where no time was seen between them."""
        since = self._unchanged_ns
        together = len(self._changes) >= _MOST_CHANGES
        if self._changes and (together or self._changes[-1][0] == since):
            since, _ = self._changes.pop()
        self._changes.append((since, received_ns))

    def _changed_after(self, state: NftState) -> int:
        """After which time the changes came that made a state of the ruleset."""
        since = [
            unchanged
            for unchanged, received in self._changes
            if state.after_ns < received and unchanged <= state.time_ns
        ]
        self._changes = [one for one in self._changes if one[0] > state.time_ns]
        return max(state.after_ns, min(since, default=state.after_ns))

    def _take_the_rest(self, poll: select.poll, ready: Mapping[int, int], writer: Writer) -> None:
        """What is ready beside the events."""
        if self._options.trigger in ready:
            self._pull_trigger(poll)
        self._take_findings(writer)
        self._take_sides(writer)

    def _pull_trigger(self, poll: select.poll) -> None:
        """Once: what was waited for has been seen, or nobody looks for it any more."""
        assert self._options.trigger is not None  # noqa: S101 - for the type checker
        poll.unregister(self._options.trigger)
        if os.read(self._options.trigger, 1):
            self._stop_ns = time.monotonic_ns() + int(self._options.after_s * 1e9)
        else:
            self._note("nobody looks for what --stop-on asks any more: its process ended")

    def _tend(self, writer: Writer, now: int) -> None:
        """Keep what the ring holds; write it out where that was asked for; give free memory back."""
        if self._wake.copies:
            self._copy(writer)
        if self._ring():
            self._trim(writer, now)
        if now >= self._give_back_ns:
            self._give_back_ns = now + _GIVE_BACK_NS
            host.give_back_memory()

    def _trim(self, writer: Writer, now: int) -> None:
        """Let go of what is too much or too old: now and then, and at once where much comes."""
        options = self._options
        most_bytes, lasts_ns = options.ring_bytes, int((options.ring_s or 0) * 1e9)
        crowded = most_bytes is not None and writer.event_bytes > 1.25 * most_bytes
        if now >= self._trim_ns or crowded:
            self._trim_ns = now + max(_RING_NS, lasts_ns // _RING_SHARE)
            writer.trim(most_bytes=most_bytes, lasts_ns=lasts_ns or None)

    def _copy(self, writer: Writer) -> None:
        """What there is by now, into a file of its own beside the recording (SIGUSR1)."""
        self._wake.copies = 0
        output = self._options.output
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = output.with_name(f"{output.stem}-{moment}{output.suffix}")
        try:
            writer.copy(path, time.time_ns(), "SIGUSR1")
        except IptrecError as error:
            self._note(str(error))
        else:
            self._note(f"written: {path}")

    def _timeout_ms(self, writer: Writer, started: int) -> int:
        """Until the next look at the clock, or the end."""
        ends = [] if self._stop_ns is None else [self._stop_ns]
        if self._options.duration_s is not None:
            ends.append(started + int(self._options.duration_s * 1e9))
        wait = _TICK_NS if writer.waits else _IDLE_NS
        for end in ends:
            wait = min(wait, end - time.monotonic_ns())
        return max(0, wait) // 1_000_000 + 1

    def _limit(self, writer: Writer) -> str:
        """The limit of the options that is reached, "" if none is."""
        options, progress = self._options, self._progress
        if options.duration_s is not None and progress.elapsed_ns >= options.duration_s * 1e9:
            return "duration"
        if options.packets is not None and progress.packets >= options.packets:
            return "packets"
        if self._stop_ns is not None and time.monotonic_ns() >= self._stop_ns:
            return "stop-on"
        if options.max_bytes is not None and writer.file_bytes >= options.max_bytes:
            return "max-size"
        return ""

    def _fetch(self, source: _Source, writer: Writer) -> int:
        """Move what is there into the file; the number of datagrams."""
        try:
            batch = source.socket.receive()
        except batches.Overrun as overrun:
            now = time.time_ns()
            self._progress.lost += overrun.events or 0
            writer.add_loss(Loss(source.stream, source.last_ns, now, overrun.events, "enobufs"))
            return batches.SLOTS
        if batch is None:
            return 0
        writer.append(source.stream, batch.received_ns, batch.lengths, batch.data)
        self._progress.events += len(batch.lengths)
        if self._options.packets is not None:
            self._progress.packets += self._traversals(source, batch.data)
        between = source.stream, source.last_ns, batch.received_ns
        if batch.lost:
            self._progress.lost += batch.lost
            writer.add_loss(Loss(*between, batch.lost, "sequence"))
        if batch.truncated:  # not missing, so not counted
            writer.add_loss(Loss(*between, None, "truncated"))
        source.last_ns = batch.received_ns
        return len(batch.lengths)

    def _take_sides(self, writer: Writer) -> None:
        """What the streams beside the events have; where interfaces are lost, how they all are now."""
        for side in self._sides:
            try:
                for _ in range(_SIDE_DATAGRAMS):
                    if (datagram := side.socket.receive()) is None:
                        break
                    self._append(writer, side.stream, datagram)
                    if isinstance(side.socket, ChangeSocket):
                        self._note_change(time.time_ns())
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise HostError(f"cannot read netlink: {error.strerror}") from None
                now = time.time_ns()
                writer.add_loss(Loss(side.stream, now, now, None, "enobufs"))
                if isinstance(side.socket, links.LinkSocket):
                    self._snapshot(writer, "links", "rtnetlink", links.dumps()["links"])

    def _append(self, writer: Writer, stream: int, datagram: bytes) -> None:
        writer.append(stream, time.time_ns(), np.array([len(datagram)], np.uint32), datagram)

    def _traversals(self, source: _Source, data: bytes) -> int:
        """How many packets pass the raw table in these events; see `Options`."""
        if isinstance(source.socket, NftraceSocket):
            name = "raw" if self._table is None else nft_table.name(self._comment)
            table = struct.pack("=HH", 5 + len(name), _NFT_TABLE) + name.encode() + b"\0"
            return data.count(table + _NFT_POLICY) if len(self._sources) == 1 else 0
        ours = sum(
            data.count(b"TRACE: raw:%s:rule:%d " % (chain, number))
            for chain in (b"PREROUTING", b"OUTPUT")
            for number in range(1, max(len(self._options.interfaces), 1) + 1)
        )
        return data.count(b"TRACE: raw:") - ours

    def _settle(self, writer: Writer) -> None:
        """Let the last packets come to their ends before our rules go."""
        poll = select.poll()
        for source in self._sources:
            poll.register(source.socket, select.POLLIN)
        end = time.monotonic_ns() + _SETTLE_NS
        while time.monotonic_ns() < end and poll.poll(_QUIET_MS):
            for source in self._sources:
                self._fetch(source, writer)

    def _finish(self, source: _Source, writer: Writer) -> None:
        """All that is still in the socket, and what did not find room in it at the very end."""
        source.socket.stop()
        while self._fetch(source, writer):
            pass
        if unseen := source.socket.unseen():
            self._progress.lost += unseen
            now = time.time_ns()
            writer.add_loss(Loss(source.stream, source.last_ns, now, unseen, "enobufs"))
        granted = source.socket.receive_buffer
        if self._progress.lost and granted < self._options.receive_buffer:
            self._note(
                f"events were lost with a receive buffer of {granted:,} bytes, all that this"
                " user is granted: raise the host's net.core.rmem_max, or record as its root"
            )

    def _start_command(self, undo: contextlib.ExitStack) -> None:
        if not self._options.command:
            return
        leave = None if self._options.netns is None else lambda: netns.enter(self._outside)
        try:
            # preexec_fn is safe: the recorder has no threads yet.
            child = subprocess.Popen(
                self._options.command,
                preexec_fn=leave,  # noqa: PLW1509
                # Handling files as the user behind sudo took on that user's groups.
                extra_groups=self._groups if self._groups != os.getgroups() else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise UsageError(f"cannot run {self._options.command[0]}: {error}") from None
        self._child = child
        undo.callback(child.terminate)  # does nothing to one that has ended


class _Wake:
    """Signals as something to poll: which stop was asked for, and whether the command has ended."""

    def __init__(self) -> None:
        self.copies = 0  # that were asked for
        self.descriptor, self._written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def written(self) -> int:
        """The end for `signal.set_wakeup_fd`."""
        return self._written

    def stopped(self, child: subprocess.Popen[bytes] | None) -> str:
        """The reason to stop, "" if there is none."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self.descriptor, 64):
                self.copies += number == signal.SIGUSR1
                # Ctrl-C reaches the command as well: its end decides.
                if number in _STOPS and (child is None or number != signal.SIGINT):
                    return signal.Signals(number).name
        return "command" if child is not None and child.poll() is not None else ""

    def close(self) -> None:
        """Both ends."""
        os.close(self.descriptor)
        os.close(self._written)


@contextlib.contextmanager
def _signals() -> Iterator[_Wake]:
    """Stop signals (and the command's end) wake the loop; they interrupt nothing else."""
    wake = _Wake()
    ours = [*_STOPS, signal.SIGCHLD, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
        ours.remove(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: None) for number in ours}
    descriptor = signal.set_wakeup_fd(wake.written, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        wake.close()


def _tables(text: bytes) -> list[str]:
    """The tables in what iptables-save printed."""
    return [line[1:].decode() for line in text.splitlines() if line.startswith(b"*")]


def _described(socket: _Socket) -> tuple[str, dict[str, Any]]:
    """The kind of a socket's stream, and what it says of itself."""
    match socket:
        case nflog.NflogSocket():
            detail = {"group": nflog.GROUP, "conntrack": socket.conntrack}
            return "nflog", {**detail, "stamps_ns": time.time_ns()}
        case NftraceSocket():
            return "nftrace", {"group": nftrace.GROUP}
        case ChangeSocket():
            return "nftables", {"group": CHANGES}
        case conntrack.ConntrackSocket():
            return "conntrack", {"groups": ["new", "destroy"]}
        case _:
            return "rtnetlink", {"groups": ["link"]}
