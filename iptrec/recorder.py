"""Records: kernel sources into a file.

Everything that is changed on the host is undone in reverse order, whatever goes wrong in between. The
loop does as little as it can: it moves datagrams from the socket into the file and counts what is
missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iptrec import __version__
from iptrec.errors import EXIT_DONE, IptrecError, UsageError
from iptrec.kernel import host, links, netns, nf_log, nflog, xtables
from iptrec.recording.rows import Facts, Loss
from iptrec.recording.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_TICK_NS: Final = 100_000_000  # of the loop when nothing comes: what waits is committed in time
_PROGRESS_NS: Final = 250_000_000
_GATHER_S: Final = 0.001  # lets events come together, so that each call fetches many
_QUIET_MS: Final = 50  # the last events of a command are in the socket within microseconds
_DRAIN_NS: Final = 2_000_000_000
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SNAPSHOT_KINDS: Final[dict[xtables.Family, str]] = {
    "ipv4": "iptables-save",
    "ipv6": "ip6tables-save",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What to record, and where to.

    ``bytecodes``: for each family that is recorded the filter as `xtables.TraceRule.bytecode`, None for
    all packets. ``duration_s``, ``events``: when to stop by itself.
    """

    output: Path
    bytecodes: Mapping[xtables.Family, str | None]
    filter: str | None = None
    interfaces: Sequence[str] = ()
    netns: str | None = None
    force: bool = False
    flush: bool = False
    modprobe: bool = True
    duration_s: float | None = None
    packets: int | None = None
    snaplen: int = 256
    command: Sequence[str] = ()
    argv: Sequence[str] = ()
    receive_buffer: int = nflog.RECEIVE_BUFFER


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


def record(options: Options, progress: Callable[[Progress], None] | None = None) -> Progress:
    """Record until a signal, the duration, the number of packets or the command's end.

    ``progress`` is called when recording begins and a few times a second from then on. Raises
    `IptrecError` for what cannot be done; nothing is changed on the host then, or it is undone.
    """
    path = None if options.netns is None else netns.resolve(options.netns)
    host.require_net_admin()
    for family in options.bytecodes:
        xtables.require(family)
    with _signals() as wake, netns.entered(path) as outside:
        return _Recording(options, progress or (lambda _: None), wake, outside).run()


class _Recording:
    def __init__(
        self, options: Options, tell: Callable[[Progress], None], wake: _Wake, outside: int
    ) -> None:
        self._options = options
        self._tell = tell
        self._wake = wake
        self._outside = outside
        self._uuid = str(uuid.uuid4())
        self._progress = Progress()
        self._begun = False
        self._rulesets: dict[xtables.Family, bytes] = {}

    def run(self) -> Progress:
        dumps = links.dumps()
        self._check_interfaces(links.names(dumps["links"]))
        with contextlib.ExitStack() as undo:
            source = undo.enter_context(self._open_source())
            writer = undo.enter_context(
                Writer.create(
                    self._options.output,
                    self._facts(),
                    force=self._options.force,
                    owner=host.sudo_owner(),
                )
            )
            try:
                self._record(source, writer, dumps)
            except BaseException:
                if not self._begun:
                    writer.discard()
                raise
        return self._progress

    def _record(self, source: nflog.NflogSocket, writer: Writer, dumps: dict[str, bytes]) -> None:
        self._namespace = writer.add_namespace(self._options.netns, netns.inode())
        self._progress.details.append(f"receive buffer: {source.receive_buffer:,} bytes")
        self._stream = writer.add_stream(
            self._namespace,
            "nflog",
            {
                "group": nflog.GROUP,
                "receive_buffer": source.receive_buffer,
                "conntrack": source.conntrack,
            },
        )
        for kind, content in dumps.items():
            self._snapshot(writer, kind, "rtnetlink", content)
        self._snapshot(writer, "sysctls", "/proc/sys", json.dumps(host.sysctls()).encode())
        with contextlib.ExitStack() as undo:
            for family in self._options.bytecodes:
                switched = nf_log.switch(family, modprobe=self._options.modprobe)
                if switched is not None:
                    self._progress.details.append(
                        f"nf_log of {family} switched from {switched.before}"
                    )
                    undo.callback(self._attempt, switched.undo)
                self._insert_rules(writer, family, undo)
            for family in self._options.bytecodes:
                self._snapshot_rules(writer, family)
            self._loop(source, writer)
            for family in self._options.bytecodes:
                self._snapshot_rules(writer, family)
        self._drain(source, writer, quiet_ms=0)
        writer.close(time.time_ns(), self._progress.reason)
        self._progress.file_bytes = self._options.output.stat().st_size

    def _open_source(self) -> nflog.NflogSocket:
        try:
            return nflog.NflogSocket(
                snaplen=self._options.snaplen, receive_buffer=self._options.receive_buffer
            )
        except IptrecError:
            if not (self._options.modprobe and host.modprobe("nfnetlink_log")):
                raise
            return nflog.NflogSocket(
                snaplen=self._options.snaplen, receive_buffer=self._options.receive_buffer
            )

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
            wildcard = interface.endswith("+")  # man 8 iptables, -i
            if not wildcard and interface not in names:
                raise UsageError(f"no interface {interface!r} here; there are: {', '.join(names)}")

    def _insert_rules(
        self, writer: Writer, family: xtables.Family, undo: contextlib.ExitStack
    ) -> None:
        comment = f"iptrec:{self._uuid}"
        rules = [
            xtables.TraceRule(family, chain, comment, interface, self._options.bytecodes[family])
            for chain in ("PREROUTING", "OUTPUT")
            for interface in (self._options.interfaces or (None,))
        ]
        taken_out = xtables.taken_out(family) if self._options.flush else []
        if self._options.flush:  # in the file before they are out of the kernel
            content = json.dumps(
                [line.encode("utf-8", "surrogateescape").decode("latin-1") for line in taken_out]
            )
            self._snapshot(writer, "raw-table", family, content.encode())
        # Registered first: an insertion that fails half way is looked for as well.
        undo.callback(self._attempt, lambda: xtables.remove(family, comment, taken_out))
        xtables.insert(rules, flush=self._options.flush)

    def _attempt(self, step: Callable[[], None]) -> None:
        """One step of undoing; the next ones are done even if it fails."""
        try:
            step()
        except (IptrecError, OSError) as error:
            self._progress.notes.append(f"could not undo everything: {error}")

    def _snapshot(self, writer: Writer, kind: str, source: str, content: bytes) -> None:
        writer.add_snapshot(self._namespace, kind, time.time_ns(), source, content)

    def _snapshot_rules(self, writer: Writer, family: xtables.Family) -> None:
        """The rulesets as they are now, where their rules differ from the last time."""
        command, text = xtables.save(family)
        rules = b"\n".join(sorted(_rules_only(text)))
        before = self._rulesets.get(family)
        if before != rules:
            self._snapshot(writer, _SNAPSHOT_KINDS[family], command, text)
        if before is None and (nft := xtables.nft_save(family)) is not None and nft[1].strip():
            self._snapshot(writer, _SNAPSHOT_KINDS[family].replace("-", "-nft-"), *nft)
        if before not in (None, rules):
            self._progress.notes.append(
                f"the {family} rules changed while recording: traces are read with those at the start"
            )
        if before is None:
            self._progress.details.append(f"{family}: {rules.count(b' -A ')} rules in force")
        self._rulesets[family] = rules

    def _loop(self, source: nflog.NflogSocket, writer: Writer) -> None:
        options, progress = self._options, self._progress
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(self._wake.descriptor, select.POLLIN)
        started = told = time.monotonic_ns()
        deadline = None if options.duration_s is None else started + int(options.duration_s * 1e9)
        child = self._start_command()
        self._begun = True
        self._tell(progress)
        while not progress.reason:
            poll.poll(self._timeout_ms(deadline))
            progress.reason = self._wake.stopped(child)
            fetched = self._fetch(source, writer)
            if 0 < fetched < nflog.SLOTS:
                time.sleep(_GATHER_S)
            now = time.monotonic_ns()
            if writer.due:
                writer.commit()
            if now - told >= _PROGRESS_NS:
                progress.elapsed_ns = now - started
                progress.file_bytes = writer.stored_bytes
                self._tell(progress)
                told = now
            if deadline is not None and now >= deadline:
                progress.reason = progress.reason or "duration"
            if options.packets is not None and progress.packets >= options.packets:
                progress.reason = progress.reason or "packets"
        self._drain(source, writer, quiet_ms=_QUIET_MS)
        progress.elapsed_ns = time.monotonic_ns() - started
        if child is not None:
            progress.exit_status = _status(child, progress.reason)

    def _timeout_ms(self, deadline: int | None) -> int:
        """Until the next look at the clock, or the end."""
        wait = _TICK_NS
        if deadline is not None:
            wait = max(0, min(wait, deadline - time.monotonic_ns()))
        return wait // 1_000_000 + 1

    def _fetch(self, source: nflog.NflogSocket, writer: Writer) -> int:
        """Move what is there into the file; the number of datagrams."""
        now = time.time_ns()
        try:
            batch = source.receive()
        except nflog.Overrun:
            writer.add_loss(Loss(self._stream, now, now, None, "enobufs"))
            return nflog.SLOTS
        if batch is None:
            return 0
        writer.append(self._stream, batch.received_ns, batch.lengths, batch.data)
        self._progress.events += len(batch.lengths)
        if self._options.packets is not None:
            # The first event of a traced packet is in a raw chain; with rules of the user's own in it
            # there may be more than one, so that the recording rather stops early than late.
            self._progress.packets += batch.data.count(b"TRACE: raw:")
        if batch.lost:
            self._progress.lost += batch.lost
            writer.add_loss(
                Loss(self._stream, self._last_ns, batch.received_ns, batch.lost, "sequence")
            )
        if batch.truncated:
            writer.add_loss(
                Loss(self._stream, now, batch.received_ns, batch.truncated, "truncated")
            )
        self._last_ns = batch.received_ns
        return len(batch.lengths)

    def _drain(self, source: nflog.NflogSocket, writer: Writer, *, quiet_ms: int) -> None:
        """Take what is still in the socket, until it has been quiet for a while."""
        poll = select.poll()
        poll.register(source, select.POLLIN)
        end = time.monotonic_ns() + _DRAIN_NS
        while time.monotonic_ns() < end and (
            self._fetch(source, writer) or (quiet_ms and poll.poll(quiet_ms))
        ):
            pass

    def _start_command(self) -> subprocess.Popen[bytes] | None:
        if not self._options.command:
            return None
        leave = None if self._options.netns is None else lambda: netns.enter(self._outside)
        try:
            # preexec_fn is safe: the recorder has no threads.
            child = subprocess.Popen(self._options.command, preexec_fn=leave)  # noqa: PLW1509
        except (OSError, subprocess.SubprocessError) as error:
            raise UsageError(f"cannot run {self._options.command[0]}: {error}") from None
        return child

    _last_ns = 0


class _Wake:
    """Signals as something to poll: which stop was asked for, and whether the command has ended."""

    def __init__(self) -> None:
        self.descriptor, self._written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def written(self) -> int:
        """The end for `signal.set_wakeup_fd`."""
        return self._written

    def stopped(self, child: subprocess.Popen[bytes] | None) -> str:
        """The reason to stop, "" if there is none."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self.descriptor, 64):
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
    before = {
        number: signal.signal(number, lambda *_: None) for number in (*_STOPS, signal.SIGCHLD)
    }
    descriptor = signal.set_wakeup_fd(wake.written, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        wake.close()


def _status(child: subprocess.Popen[bytes], reason: str) -> int:
    """The command's exit status as a shell gives it; 0 if it was we who stopped first."""
    if child.poll() is None:
        child.terminate()
        child.wait()
        return EXIT_DONE if reason else 1
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _rules_only(text: bytes) -> list[bytes]:
    """iptables-save without what changes by itself: counters, dates, our own rules."""
    lines: list[bytes] = []
    table = b""
    for line in text.splitlines():
        table = line if line.startswith(b"*") else table
        if line.startswith((b"[", b":")):
            rule = line.partition(b"] ")[2] if line.startswith(b"[") else line.partition(b" [")[0]
            lines.append(b"%s %06d %s" % (table, len(lines), rule))
    return lines
