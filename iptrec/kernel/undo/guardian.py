"""Undoes what a recorder changed when the recorder dies without doing it: SIGKILL, the OOM killer.

Before each change the recorder writes down what will have to be undone. The list is a file in /run/iptrec,
which `iptrec cleanup` finds when the guardian is killed as well, or where that cannot be written an
anonymous one. The guardian is a child of the recorder in a session of its own. It waits for the end of a
pipe whose other end the recorder holds, and each iptables-restore that the recorder has started: so it
acts only when nobody is still at work. Where it is killed alone the recorder starts another one.

What --flush took out of a chain that somebody has replaced meanwhile is not put back (`flushed.places`). It
stays in the list, and the list in /run/iptrec, until somebody decides with `iptrec cleanup`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import HostError, IptrecError, strerror
from iptrec.kernel import netns, privileges
from iptrec.kernel.undo import lists
from iptrec.kernel.undo.changes import RAW_TABLES, Changes
from iptrec.libc import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.kernel.drops.monitor import Asking, Borrowed
    from iptrec.kernel.undo.changes import RawTable
    from iptrec.names import Backend, Family

_NAME: Final = b"iptrec-guardian"
_PR_SET_NAME: Final = 15  # linux/prctl.h
_TRIES: Final = 30  # one a second, where the xtables lock is held by others


class Guardian:
    """A running guardian, which learns of changes before they are made.

    To be started before the process has threads, in the network namespace that is recorded. ``changes``:
    what it would undo. ``asking``: a socket of `monitor.asking`, where the drop monitor may be changed: the
    guardian has no right to enter the namespace where that is known.
    """

    def __init__(self, comment: str, output: Path, asking: Asking | None = None) -> None:
        self.changes = Changes(
            comment, netns.inode(), str(output.absolute()), cookie=netns.cookie()
        )
        self._path = lists.path_of(comment)
        self._list = lists.unnamed()
        # Its lock, too, is held by each command that `process.run` starts: `cleanup` waits for these.
        os.set_inheritable(self._list, True)
        self._asking = asking
        self._written: dict[str, Any] = {}
        self._pid: int | None = None
        self._lock = threading.Lock()  # the watches change the list as well
        self._fork()
        # From now on somebody tidies up.
        lists.give_name(self._list, self._path)
        lists.write(self.changes, self._list)

    def ended(self) -> bool:
        """Whether it has ended before its time; reported once."""
        if self._pid is None:
            return False
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._pid, self._failed = None, not os.WIFSIGNALED(status)
        return pid != 0

    def renew(self) -> None:
        """Start another one where somebody killed it. Raises `HostError` where it cannot be started.

        To be called while other threads hold no lock, as every fork.
        """
        if self._failed:
            raise HostError("it failed by itself")
        os.close(self._alive)
        try:
            self._fork()
        except OSError as error:
            raise HostError(strerror(error)) from None

    @property
    def there(self) -> bool:
        """Whether there is one."""
        return not self.ended() and self._pid is not None

    @property
    def listed(self) -> bool:
        """Whether `iptrec cleanup` can find the list."""
        return os.fstat(self._list).st_nlink > 0

    def expect_rules(self, backend: Backend, family: Family, taken_out: list[str]) -> None:
        """Our rules will be in the raw table, and these are not; what of it is missing will be new."""
        with self._writing() as changes:
            table = changes.of(backend, family)
            table.ours, table.out = True, taken_out
            self._expect_made(table)

    def expect_again(self, backend: Backend, family: Family) -> None:
        """Our rules will be inserted anew, after somebody removed them."""
        with self._writing() as changes:
            table = changes.of(backend, family)
            table.give_up(changes.comment)
            self._expect_made(table)

    def expect_table(self) -> None:
        """There will be a table of our own in nf_tables."""
        with self._writing() as changes:
            changes.table = True

    def expect_logger(self, family: Family, before: str) -> None:
        """The logger will be another one."""
        with self._writing() as changes:
            changes.loggers[family] = before

    def expect_monitor(self, borrowed: Borrowed | None) -> None:
        """The host's drop monitor will be set and started by us; None: it was not."""
        with self._writing() as changes:
            changes.monitor = borrowed

    def give_back_monitor(self) -> None:
        """Put the drop monitor back; again: nothing."""
        with self._writing() as changes:
            changes.give_back(self._asking)

    def undo_rules(self, backend: Backend, family: Family) -> None:
        """See `RawTable.undo`."""
        with self._writing() as changes:
            changes.of(backend, family).undo(changes.comment)

    def dismiss(self) -> None:
        """Everything is undone: the guardian ends. The list stays where rules of the user stayed out."""
        if self.changes.out:
            with self._writing() as changes:
                changes.loggers, changes.table, changes.monitor = {}, False, None
        else:
            lists.forget(self._path)
            os.ftruncate(self._list, 0)
        os.close(self._alive)
        if self._pid is not None:
            os.waitpid(self._pid, 0)
        os.close(self._list)

    def charge(self) -> None:
        """Not everything could be undone: the guardian goes on trying for a while."""
        os.close(self._alive)
        os.close(self._list)

    def _fork(self) -> None:
        self._pid, self._failed = None, True  # until it is there
        reading, self._alive = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _guard(reading, self._list, self._path, self._asking)
        finally:
            os.close(reading)
        # Each command that `process.run` starts holds it, too; nothing else that we start does.
        os.set_inheritable(self._alive, True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Changes]:
        """Lets one thread change the list, and writes it down."""
        with self._lock:
            yield self.changes
            now = asdict(self.changes)
            if now != self._written:  # somebody may undo the same thing each second
                lists.write(self.changes, self._list)
                self._written = now

    def _expect_made(self, table: RawTable) -> None:
        """Note what of the raw table is missing, and what is there because of other recorders.

        These are asked before and after: one may come or go meanwhile.
        """
        made = {*self._made_by_others(table), *RAW_TABLES[table.backend].made(table.family)}
        table.made = sorted({*made, *self._made_by_others(table), *table.made})

    def _made_by_others(self, table: RawTable) -> set[str]:
        """What of the raw table other recorders of this namespace made: who goes last deletes it."""
        others = (lists.read(descriptor) for _, descriptor in lists.found())
        return {
            name
            for other in others
            if other is not None and other.place == self.changes.place
            for name in other.of(table.backend, table.family).made
        }


def _guard(reading: int, changes: int, path: Path, asking: Asking | None) -> None:
    """The guardian's life; never returns."""
    status = 1
    try:
        _leave(reading, changes, *([] if asking is None else [asking.fileno()]))
        os.read(reading, 1)  # returns at the end of the pipe only
        for _ in range(_TRIES):
            try:
                _undo(changes, path, asking)
            except (IptrecError, OSError):
                time.sleep(1)
            else:
                status = 0
                break
    finally:
        os._exit(status)


def _undo(descriptor: int, path: Path, asking: Asking | None) -> None:
    """Undo what the list says, and remove it unless rules of the user stayed out."""
    found = lists.read(descriptor)
    if found is not None:
        found.undo(asking)
    if found is not None and found.out:
        lists.write(found, descriptor)
    else:
        lists.forget(path)


def _leave(*kept: int) -> None:
    """Away from the recorder's terminal, signals, directory, files, and most of its rights."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.chdir("/")
    libc.prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    for standard in {0, 1, 2}.difference(kept):  # first: no other descriptor may be free
        with contextlib.suppress(OSError):
            os.close(standard)
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path keeps a second one open
        if int(entry) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(entry))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in {0, 1, 2}.difference(kept, (nowhere,)):
        os.dup2(nowhere, standard)
    with contextlib.suppress(OSError):  # root's privilege: be the last that is killed for memory
        Path("/proc/self/oom_score_adj").write_text("-1000")
    # The user behind sudo may be the recorder's saved uid (`identity.prepare`), and could kill us then.
    os.setresuid(-1, -1, os.geteuid())
    os.setresgid(-1, -1, os.getegid())
    privileges.keep(privileges.GUARDIAN)
