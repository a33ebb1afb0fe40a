"""The loop: does as little as it can while packets are traced, until there is a reason to stop."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Final

from iptrec.kernel import batches, host
from iptrec.recorder.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from iptrec.recorder.asking import Asking
    from iptrec.recorder.backend import Evidence, Findings, TraceBackend
    from iptrec.recorder.command import Command
    from iptrec.recorder.guarded import Guarded
    from iptrec.recorder.lists import Lists
    from iptrec.recorder.options import Options, Report
    from iptrec.recorder.rotation import Rotation
    from iptrec.recorder.signals import Wake
    from iptrec.recording.writer import Writer

_TICK_NS: Final = 100_000_000  # of the loop, at most, while something waits to be committed in time
_IDLE_NS: Final = 1_000_000_000  # while nothing does
_PROGRESS_NS: Final = 250_000_000
# How long events come together in a tap; where somebody waits for what is told, not so long.
_TOGETHER_S, _FOLLOWED_S = 0.015, 0.007
_TOLD: Final = 1 << 16  # bytes of a pipe
_GIVE_BACK_NS: Final = 60_000_000_000  # it takes a third of a millisecond


class Loop:
    """Moves what comes into the file, commits in time, looks at limits, and tells how far it is.

    Time counts from when this is made. The reason to stop is in the progress in the end.
    """

    def __init__(
        self,
        options: Options,
        report: Report,
        evidence: Evidence,
        backends: Sequence[TraceBackend],
        *,
        rotation: Rotation | None,
        lists: Lists,
        asking: Asking | None,
        findings: Findings,
        wake: Wake,
        command: Command,
        guarded: Guarded,
    ) -> None:
        self._options = options
        self._report = report
        self._progress = report.progress
        self._evidence = evidence
        self._streams = evidence.streams
        self._rotation = rotation
        self._lists = lists
        self._asking = asking
        self._backends = backends
        self._findings = findings
        self._wake = wake
        self._command = command
        self._guarded = guarded
        self._ring = Ring(options, report, evidence)
        self._poll = self._polled(self._streams.event_sockets)
        self._beside = self._polled()
        self._started = self._reported_ns = time.monotonic_ns()
        self._told = 0  # lines from the trigger
        self._stop_ns: int | None = None  # where the trigger was pulled
        self._ends: list[int] = []  # times to wake up at, of the monotonic clock
        if options.duration_s is not None:
            self._ends.append(self._started + int(options.duration_s * 1e9))
        self._give_back_ns = 0

    @property
    def _writer(self) -> Writer:
        return self._evidence.writer

    def _polled(self, sockets: Collection[int] = ()) -> select.poll:
        """All that is waited for, and these sockets."""
        poll = select.poll()
        for descriptor in self._streams.side_sockets.union(sockets):
            poll.register(descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        poll.register(self._findings, select.POLLIN)
        for asked in (self._options.trigger, self._options.viewer):
            if asked is not None:
                poll.register(asked, select.POLLIN)
        return poll

    def run(self) -> None:
        """Until there is a reason to stop."""
        progress, streams = self._progress, self._streams
        while not progress.reason:
            ready = dict(self._poll.poll(0 if self._wake.stop else self._timeout_ms()))
            fetched = streams.fetch()
            if ready.keys() - streams.event_sockets:
                self._take_the_rest(ready)
            for backend in self._backends:
                backend.caught_up()
            if self._asking is not None:
                self._asking.work()
            if fetched or ready.keys() & streams.event_sockets:
                self._gather(fetched)
            if self._writer.pace.due:
                self._writer.commit()
            now = time.monotonic_ns()
            self._guarded.keep(now)
            self._tend(now)
            progress.elapsed_ns = now - self._started
            if now - self._reported_ns >= _PROGRESS_NS:
                progress.file_bytes = self._writer.stored_bytes
                self._writer.pace.followed = self._options.followed or self._writer.followed
                self._report.tell()
                self._reported_ns = now
            progress.reason = progress.reason or self._wake.stopped() or self._limit()
        self._report.tell()
        if self._rotation is not None:
            self._rotation.tidy()
        if progress.reason in ("command", "packets"):
            streams.settle()

    def _gather(self, fetched: int) -> None:
        """Let events come together, so that each look brings many; ``fetched``: by the last one.

        Into a tap they may come for longer, as long as its ring has room, and nothing comes beside them: they
        have times of their own, and it is noted meanwhile that nothing has changed.
        """
        pause_s = min(one.gather_s for one in self._backends)
        if not self._streams.tapped:
            if fetched < batches.SLOTS:
                time.sleep(pause_s)
            return
        end = time.monotonic() + (_FOLLOWED_S if self._writer.pace.followed else _TOGETHER_S)
        if not self._streams.pressing:
            time.sleep(pause_s)
        while time.monotonic() < end and not self._streams.pressing:
            for backend in self._backends:
                backend.caught_up()
            if self._beside.poll(pause_s * 1000):
                break

    def _take_the_rest(self, ready: Collection[int]) -> None:
        """What is ready beside the events."""
        if self._options.trigger is not None and self._options.trigger in ready:
            self._pull(self._options.trigger)
        if self._options.viewer in ready:
            self._progress.reason = "viewer"
        self._findings.take()
        self._streams.take_sides()

    def _pull(self, trigger: int) -> None:
        """What was waited for has been seen, a line each time, or nobody looks for it any more."""
        told = os.read(trigger, _TOLD)
        self._told += told.count(b"\n")
        self._progress.stopped_by = (self._progress.stopped_by + told.decode("latin-1"))[:_TOLD]
        enough = self._told >= (self._options.trigger_packets or 1)
        if told and not enough:
            return
        for poll in (self._poll, self._beside):
            poll.unregister(trigger)
        if enough:
            self._stop_ns = time.monotonic_ns() + int(self._options.after_s * 1e9)
            self._ends.append(self._stop_ns)
        else:
            self._report.note("--stop-on: the process that watches has ended; record goes on")

    def _tend(self, now: int) -> None:
        """Write out where that was asked for; keep what the ring holds; list again; give free memory back."""
        if self._rotation is not None and self._rotation.due(now):
            self._rotation.turn()
        if self._wake.copies:
            self._wake.copies = 0
            self._ring.copy()
        self._ring.trim(now)
        self._lists.look(now)
        if now >= self._give_back_ns:
            self._give_back_ns = now + _GIVE_BACK_NS
            host.give_back_memory()

    def _timeout_ms(self) -> int:
        """Until the next look at the clock, or the end."""
        due = self._writer.pace.due_in_ns
        wait = _IDLE_NS if due is None else min(due, _TICK_NS)
        for end in self._ends:
            wait = min(wait, end - time.monotonic_ns())
        return max(0, wait) // 1_000_000 + 1

    def _limit(self) -> str:
        """The command's end, or the limit of the options that is reached; "" to go on."""
        options, progress = self._options, self._progress
        if self._command.ended():
            return "command"
        if options.duration_s is not None and progress.elapsed_ns >= options.duration_s * 1e9:
            return "duration"
        if options.packets is not None and progress.packets >= options.packets:
            return "packets"
        if self._stop_ns is not None and time.monotonic_ns() >= self._stop_ns:
            return "stop-on" if options.trigger_packets is None else "packets"
        if options.max_bytes is not None and self._writer.file_bytes >= options.max_bytes:
            return "max-size"
        return ""
