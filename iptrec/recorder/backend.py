"""The door for a way to trace: what a backend does for a session, and what the session does for it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol, Self

from iptrec.errors import IptrecError, located
from iptrec.kernel import network
from iptrec.recording.rows import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from iptrec.kernel.undo.guardian import Guardian
    from iptrec.kernel.watch import Hole, Watch
    from iptrec.names import Family
    from iptrec.recorder.options import Options, Report
    from iptrec.recorder.streams import Events, Side, Streams
    from iptrec.recording.writer import Blob, Writer

_HOLES: Final = {
    "rules-gone": "somebody removed our {} TRACE rules from the raw table: put back; not traced meanwhile",
    "logger-switched": "somebody switched net.netfilter.nf_log of {}: put back; not traced meanwhile",
}


class TraceBackend(Protocol):
    """One of the kernel's ways to trace: switched on, listened to, watched, and undone.

    Made of a `Setting`, which raises `IptrecError` where what it needs is missing. The methods are called in
    the order in which they stand here, `traversals` and `caught_up` again and again while events come.
    """

    @property
    def gather_s(self) -> float:
        """How long the loop may let events come together now, so that each call fetches many."""

    def open(self, opened: contextlib.ExitStack) -> tuple[Sequence[Side], Events]:
        """Open its sockets, before anything is looked at, so that nothing is missed."""

    def prepare(self, undo: Undo) -> None:
        """Change what has to stay changed until the last event is out of the socket, such as a logger."""

    def insert(self, evidence: Evidence, undo: Undo) -> None:
        """Insert our rules, so that tracing begins; each step's undoing is registered before the step."""

    def baseline(self, evidence: Evidence) -> None:
        """Keep the rulesets as they are now: the watch will tell how they change."""

    def carry(self, evidence: Evidence) -> None:
        """Begin another file with the rulesets since its first event: `Streams.since_ns`; nothing is listed."""

    @property
    def watch(self) -> Watch:
        """The watch of its rules, once they are inserted; the session starts and stops it."""

    def matched(self) -> Mapping[str, int]:
        """Return how many packets our rules have matched, by backend, family and chain; called at the end."""

    def take_last_changes(self, evidence: Evidence) -> None:
        """Take what is told of the rules that the last events met, behind which no more come."""

    def conclude(self) -> None:
        """Look a last time, in little time: the watch has ended, and our rules are gone."""

    def traversals(self, data: bytes) -> int:
        """Return how many packets some events tell of (back to back), each counted once."""

    def caught_up(self) -> None:
        """Learn that all datagrams up to now were taken; called in each round, so to be cheap."""


class Undo(contextlib.ExitStack):
    """Steps that undo what was done, the last one first; each is tried even if another one failed.

    ``failed``: is called with the reason why a step failed, and outlives this.
    """

    def __init__(self, failed: list[str]) -> None:
        super().__init__()
        self._failed = failed

    def step(self, undo: Callable[[], None]) -> None:
        """Register a step; to be called before what it undoes is done."""
        self.callback(self._attempt, undo)

    def _attempt(self, undo: Callable[[], None]) -> None:
        try:
            undo()
        except IptrecError as error:
            self._failed.append(str(error))
        except OSError as error:
            self._failed.append(located(error))


class Findings:
    """What watches find, handed over from their threads to the loop's; a context manager.

    A finding is what is to be done with it there.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._found = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._found)

    def fileno(self) -> int:
        """For poll."""
        return self._found

    def put(self, store: Callable[[], None]) -> None:
        """Hand over; called in a watch's thread."""
        self._queue.put(store)
        os.eventfd_write(self._found, 1)

    def take(self) -> None:
        """Do what is to be done."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._found)
        while not self._queue.empty():
            self._queue.get()()


@dataclass(slots=True)
class Evidence:
    """Where backends put what they see beside the events: snapshots and losses of one namespace.

    ``named``: the namespace's name and inode, for each file that is written.
    """

    writer: Writer
    namespace: int
    streams: Streams
    report: Report
    named: tuple[str | None, int]

    def write_to(self, writer: Writer) -> None:
        """Go on in another file, which has nothing yet."""
        self.writer = writer
        self.namespace = writer.add_namespace(*self.named)
        self.streams.write_to(writer, self.namespace)

    def snapshot(
        self,
        kind: str,
        source: str,
        content: bytes | Blob,
        *,
        time_ns: int | None = None,
        after_ns: int | None = None,
    ) -> None:
        """Keep a snapshot of a kind of `kinds.SNAPSHOTS`, of now or of a time (epoch, ns).

        ``after_ns``: where it is a state that came to be between this time and that one.
        """
        at_ns = time.time_ns() if time_ns is None else time_ns
        self.writer.add_snapshot(self.namespace, kind, at_ns, source, content, after_ns)

    def keep_network(self, found: Mapping[str, bytes]) -> None:
        """Keep lists of the network, as `kernel.network` has them: all as of now."""
        now = time.time_ns()
        with self.writer.together():
            for kind, content in found.items():
                source = network.SOURCES.get(kind, "rtnetlink")
                self.snapshot(kind, source, content, time_ns=now)

    def taken_out(self, family: Family, lines: Sequence[str]) -> None:
        """Keep what --flush takes out, in the file before it is out of the kernel."""
        texts = [line.encode("utf-8", "surrogateescape").decode("latin-1") for line in lines]
        self.snapshot("raw-table", family, json.dumps(texts).encode())

    def hole(self, kind: str, hole: Hole) -> None:
        """Note that nothing was traced for a while in the stream of a kind."""
        stream = self.streams.ids[kind]
        self.writer.add_loss(Loss(stream, hole.first_ns, hole.last_ns, None, hole.what))
        self.report.note(_HOLES[hole.what].format(hole.family))


@dataclass(frozen=True, slots=True)
class Setting:
    """What a backend works with; ``comment``: of our rules, it says whose they are."""

    options: Options
    comment: str
    guardian: Guardian
    findings: Findings
    report: Report

    def trouble(self, error: IptrecError) -> None:
        """Tell the user what a watch could not do; called in its thread."""
        self.findings.put(partial(self.report.note, str(error)))
