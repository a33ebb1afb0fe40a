"""Records: kernel sources into a file.

Everything that is changed on the host is undone in reverse order, whatever goes wrong in between: each
step is tried even if another one failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from iptrec.errors import HostError, IptrecError
from iptrec.kernel import (
    asker,
    conntrack,
    host,
    links,
    netns,
    network,
    privileges,
    sockets,
    stamps,
    sysctls,
)
from iptrec.kernel.bpf.btf import Btf
from iptrec.kernel.child import Forked
from iptrec.kernel.undo.flushed import of_table
from iptrec.kernel.undo.guardian import Guardian
from iptrec.recorder import drops, senders
from iptrec.recorder.asking import Asking
from iptrec.recorder.backend import Evidence, Findings, Setting, Undo
from iptrec.recorder.backends import chosen
from iptrec.recorder.command import Command
from iptrec.recorder.guarded import Guarded
from iptrec.recorder.lists import Lists
from iptrec.recorder.loop import Loop
from iptrec.recorder.options import Progress, Report
from iptrec.recorder.rotation import Rotation
from iptrec.recorder.signals import waking
from iptrec.recorder.streams import Events, Side, Streams
from iptrec.recording.rows import Facts
from iptrec.recording.writer import Writer
from iptrec.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.recorder.options import Options
    from iptrec.recorder.signals import Wake


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
    report = Report(Progress(), progress)
    try:
        with waking() as wake, Findings() as findings:
            elsewhere = path is not None and not options.inside
            command = Command(
                options.command, outside if elsewhere else None, options.command_stdout
            )
            _Session(_with_forwarded(options, report), report, wake, findings, command).run(begun)
    finally:
        os.close(outside)
    # Signals are as they were, and nothing is left to undo: a command that we stopped may take its time.
    report.progress.exit_status = command.status(report.progress.reason)
    return report.progress


def _with_forwarded(options: Options, report: Report) -> Options:
    """The options, with packets that are forwarded out by one of the interfaces, where any are."""
    if not (options.interfaces and options.forwarded and sysctls.forwards()):
        return options
    report.note(
        "this host forwards: all packets that come in are traced, and shown if they pass"
        f" {' or '.join(options.interfaces)}; --no-forwarded traces less"
    )
    return replace(options, all_incoming=True)


class _Session:
    """The order of doing and undoing.

    - guard: fork the guardian, first of all: a fork is best made while there is nothing to inherit
    - choose: the backends; what they need is there
    - open: all sockets, before anything is looked at, so that nothing is missed
    - look: a child begins to list interfaces, addresses, routes and sets
    - create: the file, its streams, the connections that there are
    - prepare: what stays changed until the last event is fetched, such as a logger
    - insert: our rules, one backend after the other,
    - baseline: and its rulesets into the file
    - start: the command
    - begin: tell that events are recorded, give rights up, start the watches
    - loop: until there is a reason to stop
    - count: what our rules have matched
    - drain: the events that are still in the sockets; no more come
    - stop: the watches: for each event all changes of rules before it are known
    - again: a child begins to list the sets again; that forks, so no thread may be left
    - remove: our rules; end the command
    - conclude: look a last time at rules that it takes programs to list, which may not come to an end
    - undo: what was prepared
    - close: the file
    - dismiss: the guardian; where something could not be undone it is charged with it
    """

    def __init__(
        self,
        options: Options,
        report: Report,
        wake: Wake,
        findings: Findings,
        command: Command,
    ) -> None:
        self._options = options
        self._report = report
        self._wake = wake
        self._findings = findings
        self._command = command
        self._uuid = str(uuid.uuid4())
        self._comment = f"iptrec:{self._uuid}"
        self._not_undone: list[str] = []

    def run(self, begun: Callable[[int], None]) -> None:
        """All phases."""
        with contextlib.ExitStack() as shared:
            self._monitor = drops.asked_by(self._options, shared)
            self._guardian = Guardian(self._comment, self._options.output, self._monitor)
            try:
                self._record(begun)
            finally:
                if self._not_undone:
                    self._guardian.charge()
                else:
                    self._guardian.dismiss()

    def _record(self, begun: Callable[[int], None]) -> None:
        """From the choice of backends to the closed file; what stays behind is told in any case."""
        options = self._options
        try:
            setting = Setting(options, self._comment, self._guardian, self._findings, self._report)
            self._backends = chosen(setting)
            self._trouble = setting.trouble
            with contextlib.ExitStack() as opened:
                with Btf.shared():
                    self._dropped = drops.opened(options, opened, self._monitor)
                    self._senders = senders.opened(self._report, opened)
                    sides, events = self._open(opened)
                options.check_interfaces(netns.interfaces())
                since_ns = time.time_ns()
                child = opened.enter_context(Forked("the network", network.first))
                with contextlib.ExitStack() as self._files:
                    writer = self._files.enter_context(
                        Writer.create(options.output, self._facts(), force=options.force)
                    )
                    writer.keeps = False  # no file where nothing was recorded
                    writer.pace.followed = options.followed
                    self._evidence = self._create(writer, sides, events)
                    self._trace(child, since_ns, begun)
                    writer = self._evidence.writer
                    writer.close(time.time_ns(), self._report.progress.reason)
        except IptrecError as error:
            if left := self._left_behind():
                raise HostError(*error.parts, f"; {left}") from None
            raise
        if left := self._left_behind():
            raise HostError(f"recorded to {options.output}, but {left}")
        self._report.progress.file_bytes = writer.size

    def _open(self, opened: contextlib.ExitStack) -> tuple[list[Side], list[Events]]:
        """All sockets; those of the first backend are the last."""
        self._ways = opened.enter_context(links.WaySocket())
        changes = opened.enter_context(links.LinkSocket())
        sides: list[Side] = [
            Side(
                changes,
                "rtnetlink",
                {"groups": ["link", "route"], "looked_at": list(links.WAYS)},
                missed=self._look_at_links,
                sent_ns=changes.sent_ns,
            )
        ]
        if gone := sockets.closed():
            sides.append(Side(opened.enter_context(gone), "sockets", {}))
        self._asking = self._asker(opened)
        if self._asking is not None:
            sides.append(Side(self._asking.asker, "route-answers", {}, there=self._asking.begin))
        if self._options.conntrack:
            socket = opened.enter_context(conntrack.ConntrackSocket())
            groups = {"groups": ["new", "destroy"]}
            sides.append(Side(socket, "conntrack", groups, there=conntrack.dump))
        opened.enter_context(stamps.stamping())
        events: list[Events] = []
        for backend in reversed(self._backends):
            beside, traced = backend.open(opened)
            sides += beside
            detail = {"all_incoming": True} if self._options.all_incoming else {}
            events.append(replace(traced, detail={**traced.detail, **detail}))
        return sides, events

    def _asker(self, opened: contextlib.ExitStack) -> Asking | None:
        """Who asks the kernel about packets that vanish; nobody where it tells of them by itself."""
        if self._dropped is not None and self._dropped.whole:
            return None
        found = opened.enter_context(asker.Asker(self._trouble))
        return Asking(found, self._options.asking_again_s)

    def _create(self, writer: Writer, sides: Sequence[Side], events: Sequence[Events]) -> Evidence:
        """The streams of the file, and a place for what is seen beside them."""
        named = self._options.netns, netns.inode()
        namespace = writer.add_namespace(*named)
        streams = Streams(
            writer,
            namespace,
            sides,
            events,
            options=self._options,
            report=self._report,
            traversals=self._backends[0].traversals,
            dropped=self._dropped,
            senders=self._senders,
            asking=self._asking,
        )
        return Evidence(writer, namespace, streams, self._report, named)

    def _trace(self, child: Forked, since_ns: int, begun: Callable[[int], None]) -> None:
        """Everything that is changed on the host is changed, and undone, in here."""
        evidence = self._evidence
        evidence.snapshot("sysctls", "/proc/sys", sysctls.settings())
        with Undo(self._not_undone) as prepared:
            if self._dropped is not None:
                self._dropped.prepare(self._guardian, prepared.step)
            for backend in self._backends:
                backend.prepare(prepared)
            with Undo(self._not_undone) as inserted:
                for backend in self._backends:
                    backend.insert(evidence, inserted)
                    backend.baseline(evidence)
                lists = Lists(evidence, self._ways)
                found = self._keep(child)
                lists.begin(found, since_ns)
                if stopped := self._command.start(inserted, self._wake):
                    self._report.note(f"the command was not started: {stopped} came before")
                loop = self._loop(lists, found["owners"])
                self._begin(begun)
                loop.run()
                self._count()
                evidence.streams.end_events()
                if self._asking is not None:
                    self._asking.finish()
                for backend in self._backends:
                    backend.take_last_changes(evidence)
                    backend.watch.stop()
                evidence.streams.take_all_sides()  # when they came is known by when they are taken
                lists.look_now()
                # What is there in the beginning and in the end was there all the time, or came and went.
                again = prepared.enter_context(Forked("the network again", network.last))
                self._findings.take()
            for backend in self._backends:
                backend.conclude()
            self._findings.take()
            evidence.streams.finish()
            self._keep(again)

    def _loop(self, lists: Lists, owners: bytes) -> Loop:
        watches = [one.watch for one in self._backends]
        if self._asking is not None:
            watches.append(self._asking.asker)
        return Loop(
            self._options,
            self._report,
            self._evidence,
            self._backends,
            rotation=self._rotation(lists, owners),
            lists=lists,
            asking=self._asking,
            findings=self._findings,
            wake=self._wake,
            command=self._command,
            guarded=Guarded(self._guardian, watches, self._report),
        )

    def _rotation(self, lists: Lists, owners: bytes) -> Rotation | None:
        """What goes on in other files, where that was asked for."""
        if not self._options.rotates:
            return None
        return Rotation(
            self._options,
            self._evidence,
            self._backends,
            self._findings,
            lists,
            self._files,
            self._facts,
            owners,
        )

    def _begin(self, begun: Callable[[int], None]) -> None:
        """From now on there is a recording, whatever happens."""
        writer = self._evidence.writer
        writer.keeps = True
        # Whoever reads along is started with all rights, and gives them up by itself.
        begun(writer.descriptor)
        privileges.keep(privileges.RECORDER)
        host.keep_freed_memory()
        self._report.tell()
        if self._asking is not None:
            self._asking.asker.start()
        for backend in self._backends:
            backend.watch.start()  # last: what starts processes with preexec_fn is through

    def _keep(self, child: Forked) -> dict[str, bytes]:
        """What a child has looked at."""
        found = child.result()
        self._evidence.keep_network(found)
        return found

    def _count(self) -> None:
        """How many packets came to our rules: it tells whether events came of all; of one file alone."""
        if self._options.rotates:
            return
        found: dict[str, int] = {}
        for backend in self._backends:
            try:
                found.update(backend.matched())
            except HostError as error:
                self._report.detail(f"the counters of the TRACE rules cannot be read: {error}")
                return
        self._evidence.snapshot("trace-rules", "TRACE rules", json.dumps(found).encode())

    def _look_at_links(self) -> None:
        """Where changes of interfaces were lost: how they all are now."""
        self._evidence.snapshot("links", "rtnetlink", links.dumps()["links"])

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

    def _left_behind(self) -> str:
        """What is not as it was before, and what to do; "" if everything is."""
        found = []
        if self._not_undone:
            trying = "the guardian goes on trying; " if self._guardian.there else ""
            found.append(
                f"not everything could be undone ({'; '.join(self._not_undone)}): {trying}"
                "iptrec cleanup finds what is left"
            )
        for family, backend, lines in self._guardian.changes.out:
            found.append(
                f"somebody changed the {of_table(family, backend)} meanwhile, so what --flush took out of"
                f" it was not put back ({len(lines)} rule{'s' if len(lines) > 1 else ''}):"
                f" {self._way_back(lines)}"
            )
        return "; ".join(found)

    def _way_back(self, lines: Sequence[str]) -> str:
        if self._guardian.listed:
            return "iptrec cleanup prints it, iptrec cleanup --restore appends it"
        return ", ".join(lines)
