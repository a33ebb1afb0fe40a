"""Undoes what a recorder changed when the recorder dies without doing it: SIGKILL, the OOM killer.

Before each change the recorder writes down what will have to be undone. The list is a file in /run/iptrec,
which `iptrec cleanup` finds when the guardian is killed as well, or where that cannot be written an
anonymous one. The guardian is a child of the recorder in a session of its own. It waits for the end of a
pipe whose other end the recorder holds, and each iptables-restore that the recorder has started: so it
acts only when nobody is still at work.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from iptrec.errors import IptrecError
from iptrec.kernel import nf_log, nft_table, nftables, privileges, xtables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.kernel.xtables import Family

STATE: Final = Path("/run/iptrec")
_NAME: Final = b"iptrec-guardian"
_PR_SET_NAME: Final = 15  # linux/prctl.h
_TRIES: Final = 30  # one a second, where the xtables lock is held by others
_LARGEST: Final = 64 << 20  # bytes of a list that we believe
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Changes:
    """What a recorder has changed, or is about to change.

    ``rules``: for each family whose raw table has our rules the lines that --flush took out of it, see
    `xtables.taken_out`. ``loggers``: family -> the logger that was set before. ``netns``: the inode of
    the namespace; ``output``: the recording. ``nft_rules``: as ``rules``, of iptables-nft; ``nft_made``: what
    of its raw tables was not there before, see `nftables.made`.
    """

    comment: str
    netns: int
    output: str
    rules: dict[Family, list[str]] = field(default_factory=dict)
    loggers: dict[Family, str] = field(default_factory=dict)
    nft_rules: dict[Family, list[str]] = field(default_factory=dict)
    nft_made: dict[Family, list[str]] = field(default_factory=dict)
    nft_table: bool = False

    def undo(self) -> None:
        """Undo what is still ours, in the current namespace. Raises `IptrecError` or OSError."""
        for family, taken_out in self.rules.items():
            xtables.remove(family, self.comment, taken_out)
        for family, taken_out in self.nft_rules.items():
            nftables.remove(family, self.comment, taken_out, self.nft_made.get(family, []))
        if self.nft_table:
            nft_table.remove(self.comment)
        for family, before in self.loggers.items():
            nf_log.Switched(family, before).undo()

    @classmethod
    def read(cls, descriptor: int) -> Self | None:
        """The last list that was written whole; None if there is none, or none of ours."""
        begin = max(0, os.fstat(descriptor).st_size - _LARGEST)
        found: Any = None
        for line in reversed(os.pread(descriptor, _LARGEST, begin).splitlines(keepends=True)):
            if line.endswith(b"\n"):
                with contextlib.suppress(ValueError, TypeError):
                    found = cls(**json.loads(line))
                break
        return found if found is not None and found.plausible else None

    @property
    def _lists(self) -> tuple[dict[Family, list[str]], ...]:
        return self.rules, self.nft_rules, self.nft_made

    @property
    def plausible(self) -> bool:
        """Whether the types are what they should be."""
        return (
            isinstance(self.comment, str)
            and self.comment.startswith("iptrec:")
            and isinstance(self.netns, int)
            and isinstance(self.output, str)
            and isinstance(self.loggers, dict)
            and isinstance(self.nft_table, bool)
            and all(isinstance(one, dict) for one in self._lists)
            and {*self.loggers}.union(*self._lists) <= {"ipv4", "ipv6"}
            and all(
                isinstance(line, str)
                for each in self._lists
                for lines in each.values()
                for line in lines
            )
            and all(isinstance(name, str) for name in self.loggers.values())
        )


class Guardian:
    """A running guardian, which is told of changes before they are made.

    To be started before the process has threads, in the network namespace that is recorded.
    """

    def __init__(self, comment: str, netns: int, output: Path) -> None:
        self._changes = Changes(comment, netns, str(output.absolute()))
        path = path_of(comment)
        self._list = _unnamed()
        self._written = b""
        reading, self._alive = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _guard(reading, self._list, path)
        os.close(reading)
        # From now on somebody tidies up.
        _give_name(self._list, path)
        self._write()
        # Each command that xtables starts holds it, too; nothing else that we start does.
        os.set_inheritable(self._alive, True)

    def expect_rules(self, family: Family, taken_out: list[str]) -> None:
        """Our rules will be in the raw table, and these are not."""
        self._changes.rules[family] = taken_out
        self._write()

    def expect_nft(self, family: Family, taken_out: list[str], made: list[str]) -> None:
        """Our rules will be in iptables-nft's raw table; ``made``: chains that will be new."""
        self._changes.nft_rules[family] = taken_out
        known = self._changes.nft_made.get(family, [])
        self._changes.nft_made[family] = [*known, *(one for one in made if one not in known)]
        self._write()

    def expect_table(self) -> None:
        """There will be a table of our own in nf_tables."""
        self._changes.nft_table = True
        self._write()

    def expect_logger(self, family: Family, before: str) -> None:
        """The logger will be another one."""
        self._changes.loggers[family] = before
        self._write()

    def dismiss(self) -> None:
        """Everything is undone: the guardian ends."""
        os.ftruncate(self._list, 0)
        os.close(self._alive)
        os.waitpid(self._pid, 0)
        os.close(self._list)

    def charge(self) -> None:
        """Not everything could be undone: the guardian goes on trying for a while."""
        os.close(self._alive)
        os.close(self._list)

    def _write(self) -> None:
        text = (json.dumps(asdict(self._changes)) + "\n").encode()
        if text != self._written:  # somebody may undo the same thing each second
            os.write(self._list, text)
            self._written = text


def path_of(comment: str) -> Path:
    """Where the list of a recorder is found."""
    return STATE / f"{comment.removeprefix('iptrec:')}.json"


def held(descriptor: int) -> bool:
    """Whether somebody is responsible for a list: its recorder, or the guardian."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def lists() -> Iterator[tuple[Path, int]]:
    """The lists that can be found here, each with a descriptor that is open meanwhile."""
    for path in sorted(STATE.glob("*.json")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                yield path, descriptor
            finally:
                os.close(descriptor)


def _unnamed() -> int:
    """A file without a name that is locked while somebody has it open."""
    try:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(STATE.parent, flags, 0o600)
    except OSError:  # /run cannot be written: nobody will find it, but the guardian has it
        return os.memfd_create("iptrec", os.MFD_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _give_name(descriptor: int, path: Path) -> None:
    """Let others find the file, where that is possible (open(2), O_TMPFILE)."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            source = f"/proc/self/fd/{descriptor}"
            os.link(source, path.name, dst_dir_fd=parent, follow_symlinks=True)
        finally:
            os.close(parent)


def _guard(reading: int, changes: int, path: Path) -> None:
    """The guardian's life; never returns."""
    try:
        _leave(reading, changes)
        os.read(reading, 1)  # returns at the end of the pipe only
        for _ in range(_TRIES):
            try:
                if (found := Changes.read(changes)) is not None:
                    found.undo()
            except (IptrecError, OSError):
                time.sleep(1)
            else:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                    path.parent.rmdir()  # the last one
                break
    finally:
        os._exit(0)


def _leave(*kept: int) -> None:
    """Away from the recorder's terminal, signals, directory, files, and most of its rights."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.chdir("/")
    _libc.prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    with contextlib.suppress(OSError):  # root's privilege: be the last that is killed for memory
        Path("/proc/self/oom_score_adj").write_text("-1000")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    for entry in list(Path("/proc/self/fd").iterdir()):
        descriptor = int(entry.name)
        if descriptor > 2 and descriptor not in kept:  # noqa: PLR2004 - stderr
            with contextlib.suppress(OSError):
                os.close(descriptor)
    privileges.keep(privileges.GUARDIAN)
