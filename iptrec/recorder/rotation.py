"""Goes on in another file where one is large or old enough (--rotate), and keeps the last ones (--keep)."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.errors import IptrecError
from iptrec.kernel import network
from iptrec.recording.home import remove, tidy
from iptrec.recording.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from iptrec.kernel.watch import Watch
    from iptrec.recorder.backend import Evidence, Findings, TraceBackend
    from iptrec.recorder.lists import Lists
    from iptrec.recorder.options import Options
    from iptrec.recording.rows import Facts

    _Files = tuple[Path, Mapping[str, os.stat_result]]

_ENDS: Final = ("sysctls", "sockets", "groups", "counters")  # listed at a file's end, too
_SETTLE_NS: Final = 200_000_000  # meanwhile nothing is committed
_AGAIN_NS: Final = 60_000_000_000  # after a file that could not be made


class Rotation:
    """The next file, in time. Each is a recording of its own.

    It has the rulesets since its first event, and the network of its start.

    A packet that is under way is waited for. Where others never let it be quiet it has its beginning in one
    file and its end in the next. Whoever is killed in between leaves both: the next one is there before this
    one is closed.
    """

    def __init__(
        self,
        options: Options,
        evidence: Evidence,
        backends: Sequence[TraceBackend],
        findings: Findings,
        lists: Lists,
        files: contextlib.ExitStack,
        facts: Callable[[], Facts],
        owners: bytes,
    ) -> None:
        self._options = options
        self._evidence = evidence
        self._backends = backends
        self._findings = findings
        self._lists = lists
        self._files = files
        self._facts = facts
        self._owners = owners  # there is no right to ask again
        self._path = self._name = options.output
        self._number = 1  # of those with this name
        self._made: list[_Files] = []
        self._read: list[_Files] = []  # by somebody, when they ended
        self._begin(time.monotonic_ns())

    def _begin(self, now: int) -> None:
        lasts_s = self._options.rotate_s
        self._until = None if lasts_s is None else now + int(lasts_s * 1e9)
        self._not_before = now

    def due(self, now: int) -> bool:
        """Whether it is time for another file; ``now``: monotonic, ns."""
        if now < self._not_before:
            return False
        most = self._options.rotate_bytes
        full = most is not None and self._evidence.writer.file_bytes >= most
        return full or (self._until is not None and now >= self._until)

    def turn(self) -> None:
        """Go on in another file, unless a watch is at work: then a moment later."""
        with contextlib.ExitStack() as resting:
            for watch in (one.watch for one in self._backends if one.watch.told):
                if not watch.working.acquire(blocking=False):
                    return
                resting.callback(watch.working.release)
            try:
                self._turn()
            except IptrecError as error:
                self._not_before = time.monotonic_ns() + _AGAIN_NS
                self._evidence.report.note(f"--rotate: {error.typed}; this file goes on")

    def _turn(self) -> None:
        evidence, old = self._evidence, self._evidence.writer
        evidence.streams.settle(_SETTLE_NS)  # what comes from now on is for the next file
        evidence.streams.tell_again()
        for backend in self._backends:
            _look(backend.watch)
        self._lists.look_now()
        self._findings.take()
        since_ns = time.time_ns()
        found = network.last() | {"owners": self._owners}
        evidence.keep_network({kind: found[kind] for kind in _ENDS})
        evidence.streams.take_sides()
        old.commit()
        path = self._next_path()
        facts = _begun(self._facts(), evidence.streams.since_ns)
        new = self._files.enter_context(Writer.create(path, facts))
        evidence.write_to(new)
        self._begin(time.monotonic_ns())
        evidence.keep_network(found)
        self._lists.begin(found, since_ns)
        for backend in self._backends:
            backend.carry(evidence)
        self._end(old)
        self._files.pop_all()  # that one has ended: nothing of it is kept in mind
        self._files.push(new)
        self._path = path
        evidence.report.progress.written_to = str(path)
        evidence.report.tell()  # at once: whoever reads along must not miss a file

    def _next_path(self) -> Path:
        """The name of now, with a number where there are several of it: none comes a second time."""
        path = self._options.named()
        if path != self._name:
            self._name, self._number = path, 0
        while True:
            self._number += 1
            ending = f"-{self._number}" if self._number > 1 else ""
            numbered = path.with_name(f"{path.stem}{ending}{path.suffix}")
            if not os.path.lexists(numbered):
                return numbered

    def _end(self, old: Writer) -> None:
        """Close a file, and let go of the first ones where there are too many."""
        path, files = self._path, old.files
        with old:
            try:
                old.close(time.time_ns(), "rotate")
            except IptrecError as error:  # somebody moved it
                self._evidence.report.note(f"--rotate: {error.typed}")
                return
        keep = self._options.keep
        if keep is not None:
            self._made.append((path, files))
        while keep is not None and len(self._made) >= keep:
            remove(*self._made.pop(0))
        self._read.append((path, files))
        self.tidy()

    def tidy(self) -> None:
        """Take away what readers kept beside files that have ended, where they let go of it."""
        self._read = [one for one in self._read if not tidy(*one)]


def _look(watch: Watch) -> None:
    """Let it tell what there was up to now; one that misses what it does not see at once rests no longer."""
    if watch.told:
        watch.look()
        return
    watch.working.acquire()
    try:
        watch.look()
    finally:
        watch.working.release()


def _begun(facts: Facts, since_ns: int) -> Facts:
    """Facts of a recording that has begun earlier (epoch): no event that waits for it is older."""
    before = facts.started_ns - since_ns
    return replace(
        facts, started_ns=since_ns, started_monotonic_ns=facts.started_monotonic_ns - before
    )
