"""The process that keeps the file of ``record --metrics``.

It reads names of recordings on stdin, has each one counted by a process without rights (`counter`), and
adds up what these tell. It decodes nothing that strangers sent. It ends after its recorder.
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
from pathlib import Path
from typing import Final

from iptrec.errors import EXIT_TROUBLE, IptrecError
from iptrec.kernel import privileges
from iptrec.kernel.process import iptrec
from iptrec.metrics.exposition import Counts, text
from iptrec.metrics.textfile import TextFile

_RIGHTS: Final = (
    privileges.DAC_READ_SEARCH,  # a recording may be the user's behind sudo
    privileges.KILL,  # who counts is nobody
    privileges.SETGID,
    privileges.SETUID,
)
_LONGEST: Final = 16 << 20  # bytes of a line of counts
_LAST_S: Final = 20.0  # for those that count, when the recorder has ended
_READ: Final = 1 << 16


class _Counted:
    """A recording that is counted, and what was told of it last."""

    def __init__(self, path: str, every_s: str) -> None:
        self.path = path
        self.counts = Counts()
        self._line = b""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._child = subprocess.Popen(
                iptrec(
                    str(os.getpid()),
                    str(descriptor),
                    path,
                    every_s,
                    module="iptrec.metrics.counter",
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(descriptor,),
            )
        finally:
            os.close(descriptor)

    def fileno(self) -> int:
        """For poll."""
        assert self._child.stdout is not None  # noqa: S101 - for the type checker
        return self._child.stdout.fileno()

    def take(self) -> bool:
        """Read what it told; whether it goes on."""
        found = os.read(self.fileno(), _READ)
        *lines, self._line = (self._line + found).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                self.counts = Counts.of_json(json.loads(line))
        if len(self._line) > _LONGEST:
            self._child.terminate()
        return bool(found)

    def end(self, *, early: bool = False) -> None:
        """Let it go; ``early``: it has more to tell."""
        if early:
            self._child.terminate()
        assert self._child.stdout is not None  # noqa: S101 - for the type checker
        self._child.stdout.close()
        self.counts.failures = int(self._child.wait() != 0)


class _File:
    """The file, and all that was counted for it."""

    def __init__(self, file: TextFile, every_s: str) -> None:
        self._file = file
        self._every_s = every_s
        self._ended = Counts()  # of recordings that are complete
        self._held: list[tuple[str, Counts]] = []  # complete recordings that are still there
        self._counted: list[_Counted] = []
        self._started_ns = time.time_ns()

    def run(self) -> None:
        """Until the recorder has ended, and what it recorded is counted."""
        names, end = b"", None
        poll = select.poll()
        poll.register(0, select.POLLIN)
        while end is None or (self._counted and time.monotonic() < end):
            for descriptor, _ in poll.poll(None if end is None else 100):
                if descriptor:
                    self._take(descriptor, poll)
                    continue
                found = os.read(0, _READ)
                if not found:
                    end = time.monotonic() + _LAST_S
                    poll.unregister(0)
                *lines, names = (names + found).split(b"\n")
                for line in lines:
                    self._begin(os.fsdecode(line), poll)
        for one in self._counted:
            one.end(early=True)
            self._complete(one)
        self._write(recording=False)

    def _begin(self, path: str, poll: select.poll) -> None:
        try:
            one = _Counted(path, self._every_s)
        except OSError:  # its recorder may have removed it already (--keep)
            self._ended.failures += 1
            return
        self._counted.append(one)
        poll.register(one, select.POLLIN)

    def _take(self, descriptor: int, poll: select.poll) -> None:
        (one,) = (some for some in self._counted if some.fileno() == descriptor)
        before = one.counts
        if not one.take():
            poll.unregister(descriptor)
            one.end()
            self._counted.remove(one)
            self._complete(one)
        if one.counts is not before:
            self._write(recording=True)

    def _complete(self, one: _Counted) -> None:
        self._ended.add(one.counts)
        self._held.append((one.path, one.counts))

    def _write(self, *, recording: bool) -> None:
        found = Counts()
        found.add(self._ended)
        for one in self._counted:
            found.add(one.counts)
        self._held = [(path, counts) for path, counts in self._held if Path(path).exists()]
        there = [*(counts for _, counts in self._held), *(one.counts for one in self._counted)]
        found.size = sum(one.size for one in there)
        oldest = (one.oldest_ns for one in there if one.oldest_ns is not None)
        found.oldest_ns = min(oldest, default=None)
        found.behind_ns = max((one.counts.behind_ns for one in self._counted), default=0)
        try:
            self._file.write(text(found, started_ns=self._started_ns, recording=recording))
        except IptrecError as error:  # the disk may have room again in a while
            sys.stderr.write(f"iptrec record: --metrics: {error}\n")


def main() -> None:
    """Be that process: ``argv`` has the name of the file, and how often it is replaced (s).

    Its first line on stdout says why that cannot be.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it is the recorder that ends it, by ending
    try:
        file = TextFile(Path(sys.argv[1]))
        kept = _File(file, sys.argv[2])
        file.write(text(Counts(), started_ns=time.time_ns(), recording=True))
        privileges.keep(_RIGHTS)
    except IptrecError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(EXIT_TROUBLE)
    sys.stdout.close()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    kept.run()
