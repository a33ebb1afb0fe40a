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

from iptrec.errors import EXIT_TROUBLE, IptrecError, strerror
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
_LOOK_MS: Final = 100


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

    @property
    def size(self) -> int:
        """Bytes: as it was told; of one that nobody counts any more as it is now, 0 if it is gone."""
        if self._child.returncode is None:
            return self.counts.size
        try:
            return Path(self.path).lstat().st_size
        except OSError:
            return 0

    def end(self, *, early: bool = False) -> bool:
        """Let it go; ``early``: it has more to tell. Whether all of the recording is counted."""
        if early:
            self._child.terminate()
        assert self._child.stdout is not None  # noqa: S101 - for the type checker
        self._child.stdout.close()
        return self._child.wait() == 0


class _File:
    """The file, and all that was counted for it."""

    def __init__(self, file: TextFile, every_s: str, netns: str) -> None:
        self._file = file
        self._netns = netns
        self._every_s = every_s
        self._ended = Counts()  # of recordings that are complete
        self._held: list[_Counted] = []  # that nobody counts any more, and that are there
        self._counted: list[_Counted] = []
        self._last = ""  # recording that was begun
        self._last_failed = False
        self._every_ms = int(float(every_s) * 1000)
        self._started_ns = time.time_ns()

    def run(self) -> None:
        """Until the recorder has ended, and what it recorded is counted."""
        names, end = b"", None
        poll = select.poll()
        poll.register(0, select.POLLIN)
        while end is None or (self._counted and time.monotonic() < end):
            ready = poll.poll(self._every_ms if end is None else _LOOK_MS)
            if not (ready or self._counted):
                self._write(recording=True)  # its time tells that the recorder is at work
            for descriptor, _ in ready:
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
        for one in self._counted[:]:
            self._complete(one, early=True)
        self._write(recording=False)

    def write(self, counts: Counts, *, recording: bool) -> None:
        """Replace it. Raises `RecordingError`."""
        self._file.write(
            text(counts, started_ns=self._started_ns, recording=recording, netns=self._netns)
        )

    def _begin(self, path: str, poll: select.poll) -> None:
        self._last, self._last_failed = path, False
        try:
            one = _Counted(path, self._every_s)
        except OSError as error:  # its recorder may have removed it already (--keep)
            self._failed(path, f"counting {path} cannot begin: {strerror(error)}")
            return
        self._counted.append(one)
        poll.register(one, select.POLLIN)

    def _take(self, descriptor: int, poll: select.poll) -> None:
        (one,) = (some for some in self._counted if some.fileno() == descriptor)
        before = one.counts
        if not one.take():
            poll.unregister(descriptor)
            self._complete(one)
            self._write(recording=True)
        elif one.counts is not before:
            self._write(recording=True)

    def _complete(self, one: _Counted, *, early: bool = False) -> None:
        whole = one.end(early=early)
        self._counted.remove(one)
        self._ended.add(one.counts)
        self._held.append(one)
        if not whole:
            self._failed(one.path, f"counting {one.path} has ended early")

    def _failed(self, path: str, why: str) -> None:
        """It is not counted anew from its start: its ring may have dropped what has been counted."""
        self._ended.failures += 1
        self._last_failed |= path == self._last
        _say(f"{why}; its packets are missing from the counters from then on")

    def _write(self, *, recording: bool) -> None:
        found = Counts()
        found.add(self._ended)
        for one in self._counted:
            found.add(one.counts)
        self._held = [one for one in self._held if Path(one.path).exists()]
        found.size = sum(one.size for one in (*self._held, *self._counted))
        if self._last_failed:
            found.oldest_ns = found.behind_ns = None
        else:
            there = (one.counts.oldest_ns for one in (*self._held, *self._counted))
            found.oldest_ns = min((one for one in there if one is not None), default=None)
            found.behind_ns = max((one.counts.behind_ns or 0 for one in self._counted), default=0)
        try:
            self.write(found, recording=recording)
        except IptrecError as error:  # the disk may have room again in a while
            _say(str(error))


def _say(what: str) -> None:
    with contextlib.suppress(OSError):  # nobody may read it any more
        sys.stderr.write(f"iptrec record: --metrics: {what}\n")
        sys.stderr.flush()


def main() -> None:
    """Be that process: ``argv`` has the name of the file, how often it is replaced (s), the network namespace.

    Its first line on stdout says why that cannot be.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it is the recorder that ends it, by ending
    try:
        file = TextFile(Path(sys.argv[1]))
        file.take()
        kept = _File(file, sys.argv[2], sys.argv[3])
        kept.write(Counts(), recording=True)
        privileges.keep(_RIGHTS)
    except IptrecError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(EXIT_TROUBLE)
    sys.stdout.close()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    kept.run()
