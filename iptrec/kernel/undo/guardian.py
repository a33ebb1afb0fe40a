"""Undoes what a recorder changed when the recorder dies without doing it: SIGKILL, the OOM killer.

Before each change the recorder writes down what will have to be undone. The list is a file in /run/iptrec,
which `iptrec cleanup` finds when the guardian is killed as well, or where that cannot be written an
anonymous one. The guardian is a child of the recorder in a session of its own. It waits for the end of a
pipe whose other end the recorder holds, and each iptables-restore that the recorder has started: so it
acts only when nobody is still at work. Where it is killed alone the recorder starts another one.

What --flush took out of a chain that somebody has replaced meanwhile is not put back (`flushed.places`). It
stays in the list, and the list in /run/iptrec, until `iptrec cleanup` is told what to do with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from iptrec.errors import HostError, IptrecError
from iptrec.kernel import iptables, netns, privileges
from iptrec.kernel.legacy import logger
from iptrec.kernel.nft import objects, rule, table
from iptrec.kernel.undo import flushed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import Backend, Family

STATE: Final = Path("/run/iptrec")
_NAME: Final = b"iptrec-guardian"
_PR_SET_NAME: Final = 15  # linux/prctl.h
_TRIES: Final = 30  # one a second, where the xtables lock is held by others
_LINK_TRIES: Final = 5
_LARGEST: Final = 64 << 20  # bytes of a list that we believe
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Changes:
    """What a recorder has changed, or is about to change.

    ``rules``: for each family whose raw table has our rules the lines that --flush took out of it, see
    `xtables.taken_out`; ``kept``: those that are not to be put back, as somebody replaced their chains.
    ``loggers``: family -> the logger that was set before. ``netns``, ``cookie``: see `netns.inode` and
    `netns.cookie`; ``output``: the recording. ``nft_rules``, ``nft_kept``: as ``rules`` and ``kept``, of
    nf_tables, see `nftables.taken_out`; ``nft_made``: what of its raw tables recorders made, see
    `nftables.made`.
    """

    comment: str
    netns: int
    output: str
    rules: dict[Family, list[str]] = field(default_factory=dict)
    loggers: dict[Family, str] = field(default_factory=dict)
    nft_rules: dict[Family, list[str]] = field(default_factory=dict)
    nft_made: dict[Family, list[str]] = field(default_factory=dict)
    nft_table: bool = False
    kept: dict[Family, list[str]] = field(default_factory=dict)
    nft_kept: dict[Family, list[str]] = field(default_factory=dict)
    cookie: int = 0

    def undo(self) -> None:
        """Undo what is still ours, in the current namespace. Raises `IptrecError` or OSError."""
        for family in list(self.rules):
            self.undo_rules(family)
        for family in list(self.nft_rules):
            self.undo_nft(family)
        if self.nft_table:
            table.remove(self.comment)
            self.nft_table = False
        for family in list(self.loggers):
            logger.Switched(family, self.loggers[family]).undo()
            del self.loggers[family]

    def undo_rules(self, family: Family) -> None:
        """Take our rules out of a raw table, and put back what --flush took out; again: nothing."""
        if family in self.rules:
            kept = iptables.remove(family, self.comment, self.rules[family])
            self._keep(self.kept, family, kept)
            del self.rules[family]

    def undo_nft(self, family: Family) -> None:
        """The same in nf_tables."""
        if family in self.nft_rules:
            made = self.nft_made.get(family, [])
            kept = objects.remove(family, self.comment, self.nft_rules[family], made)
            self._keep(self.nft_kept, family, kept)
            del self.nft_rules[family]

    def give_up(self, family: Family) -> None:
        """Before our rules are inserted anew: what somebody replaced is not to be put back any more."""
        kept = iptables.staying_out(family, self.comment, self.rules[family])
        self._keep(self.kept, family, kept)
        self.rules[family] = [one for one in self.rules[family] if one not in kept]

    def give_up_nft(self, family: Family) -> None:
        """The same in nf_tables."""
        kept = objects.staying_out(family, self.comment, self.nft_rules[family])
        self._keep(self.nft_kept, family, kept)
        self.nft_rules[family] = [one for one in self.nft_rules[family] if one not in kept]

    def restore(self) -> None:
        """Put what was kept behind the rules that are there now. Raises `HostError`."""
        for kept, append in ((self.kept, iptables.append), (self.nft_kept, objects.append)):
            for family in list(kept):
                if not (refused := append(family, kept[family])):
                    del kept[family]
                else:
                    kept[family] = refused
        if self.out:
            family, backend, lines = self.out[0]
            raise HostError(
                f"the kernel refuses {len(lines)} rule{'s' * (len(lines) > 1)} of the"
                f" {flushed.of_table(family, backend)}, such as `{lines[0]}`: make the chains and sets that"
                " they name, then run iptrec cleanup --restore again, or --discard"
            )

    @property
    def out(self) -> list[tuple[Family, Backend, list[str]]]:
        """The rules of the user that --flush took out and nobody put back, for humans."""
        found: list[tuple[Family, Backend, list[str]]] = []
        found += ((family, "legacy", lines) for family, lines in self.kept.items())
        found += (
            (family, "nft", objects.readable(lines)) for family, lines in self.nft_kept.items()
        )
        return found

    @staticmethod
    def _keep(into: dict[Family, list[str]], family: Family, lines: list[str]) -> None:
        if lines:
            into[family] = [*into.get(family, []), *lines]

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

    def write(self, descriptor: int) -> None:
        """Write it down as the last one, or raise `HostError` and leave what is written."""
        text = (json.dumps(asdict(self)) + "\n").encode()
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, text) == len(text):
                return
            fact = os.strerror(errno.ENOSPC)
        except OSError as error:
            fact = str(error.strerror)
        os.ftruncate(descriptor, size)
        raise HostError(
            f"cannot write down in {STATE} what has to be undone: {fact}; make room there"
        )

    @property
    def _lists(self) -> tuple[dict[Family, list[str]], ...]:
        return self.rules, self.nft_rules, self.nft_made, self.kept, self.nft_kept

    @property
    def place(self) -> tuple[int, int]:
        """The namespace."""
        return self.netns, self.cookie

    @property
    def plausible(self) -> bool:
        """Whether the types are what they should be."""
        return (
            isinstance(self.comment, str)
            and self.comment.startswith("iptrec:")
            and isinstance(self.netns, int)
            and isinstance(self.cookie, int)
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
            and all(
                rule.understood(line)
                for each in (self.nft_rules, self.nft_kept)
                for lines in each.values()
                for line in lines
            )
        )


class Guardian:
    """A running guardian, which is told of changes before they are made.

    To be started before the process has threads, in the network namespace that is recorded. ``changes``:
    what it would undo.
    """

    def __init__(self, comment: str, output: Path) -> None:
        self.changes = Changes(
            comment, netns.inode(), str(output.absolute()), cookie=netns.cookie()
        )
        self._path = path_of(comment)
        self._list = _unnamed()
        self._written: dict[str, Any] = {}
        self._pid: int | None = None
        self._lock = threading.Lock()  # the watches change the list as well
        self._fork()
        # From now on somebody tidies up.
        _give_name(self._list, self._path)
        self.changes.write(self._list)

    def ended(self) -> bool:
        """Whether it has ended before its time; told once."""
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
            raise HostError(str(error.strerror)) from None

    @property
    def there(self) -> bool:
        """Whether there is one."""
        return not self.ended() and self._pid is not None

    @property
    def listed(self) -> bool:
        """Whether `iptrec cleanup` can find the list."""
        return os.fstat(self._list).st_nlink > 0

    def expect_rules(self, family: Family, taken_out: list[str]) -> None:
        """Our rules will be in the raw table, and these are not."""
        with self._writing() as changes:
            changes.rules[family] = taken_out

    def expect_nft(self, family: Family, taken_out: list[str]) -> None:
        """Our rules will be in nf_tables' raw table; what of it is missing will be new."""
        with self._writing() as changes:
            changes.nft_rules[family] = taken_out
            self._expect_made(family)

    def expect_again(self, family: Family) -> None:
        """Our rules will be inserted anew, after somebody removed them."""
        with self._writing() as changes:
            changes.give_up(family)

    def expect_nft_again(self, family: Family) -> None:
        """The same in nf_tables."""
        with self._writing() as changes:
            changes.give_up_nft(family)
            self._expect_made(family)

    def expect_table(self) -> None:
        """There will be a table of our own in nf_tables."""
        with self._writing() as changes:
            changes.nft_table = True

    def expect_logger(self, family: Family, before: str) -> None:
        """The logger will be another one."""
        with self._writing() as changes:
            changes.loggers[family] = before

    def undo_rules(self, family: Family) -> None:
        """See `Changes.undo_rules`."""
        with self._writing() as changes:
            changes.undo_rules(family)

    def undo_nft(self, family: Family) -> None:
        """See `Changes.undo_nft`."""
        with self._writing() as changes:
            changes.undo_nft(family)

    def dismiss(self) -> None:
        """Everything is undone: the guardian ends. The list stays where rules of the user stayed out."""
        if self.changes.out:
            with self._writing() as changes:
                changes.loggers, changes.nft_table = {}, False
        else:
            forget(self._path)
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
                _guard(reading, self._list, self._path)
        finally:
            os.close(reading)
        # Each command that xtables starts holds it, too; nothing else that we start does.
        os.set_inheritable(self._alive, True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Changes]:
        """Lets one thread change the list, and writes it down."""
        with self._lock:
            yield self.changes
            now = asdict(self.changes)
            if now != self._written:  # somebody may undo the same thing each second
                self.changes.write(self._list)
                self._written = now

    def _expect_made(self, family: Family) -> None:
        """Note what of the raw table is missing, and what is there because of other recorders.

        These are asked before and after: one may come or go meanwhile.
        """
        made = {*self._made_by_others(family), *objects.made(family)}
        made |= {*self._made_by_others(family), *self.changes.nft_made.get(family, [])}
        self.changes.nft_made[family] = sorted(made)

    def _made_by_others(self, family: Family) -> set[str]:
        """What of the raw table other recorders of this namespace made: who goes last deletes it."""
        others = (Changes.read(descriptor) for _, descriptor in lists())
        return {
            name
            for other in others
            if other is not None and other.place == self.changes.place
            for name in other.nft_made.get(family, [])
        }


def path_of(comment: str) -> Path:
    """Where the list of a recorder is found."""
    return STATE / f"{comment.removeprefix('iptrec:')}.json"


def forget(path: Path) -> None:
    """Remove a list, and the directory with the last one."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def rewrite(changes: Changes) -> None:
    """Write down in a list that nobody holds what is left of it; nothing where there is none."""
    with contextlib.suppress(OSError):
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path_of(changes.comment), flags)
        try:
            changes.write(descriptor)
        finally:
            os.close(descriptor)


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
    for _ in range(_LINK_TRIES):  # another recorder that ends may remove the directory
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                source = f"/proc/self/fd/{descriptor}"
                os.link(source, path.name, dst_dir_fd=parent, follow_symlinks=True)
            finally:
                os.close(parent)
            break


def _guard(reading: int, changes: int, path: Path) -> None:
    """The guardian's life; never returns."""
    status = 1
    try:
        _leave(reading, changes)
        os.read(reading, 1)  # returns at the end of the pipe only
        for _ in range(_TRIES):
            try:
                _undo(changes, path)
            except (IptrecError, OSError):
                time.sleep(1)
            else:
                status = 0
                break
    finally:
        os._exit(status)


def _undo(descriptor: int, path: Path) -> None:
    """Undo what the list says, and remove it unless rules of the user stayed out."""
    found = Changes.read(descriptor)
    if found is not None:
        found.undo()
    if found is not None and found.out:
        found.write(descriptor)
    else:
        forget(path)


def _leave(*kept: int) -> None:
    """Away from the recorder's terminal, signals, directory, files, and most of its rights."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    os.chdir("/")
    _libc.prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
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
