"""States of tables as text: printed one after the other, by what was copied of each when it was found.

The watch goes on meanwhile, so states that are soon gone are copied, too, and printed all the same (`printer`).
Where a host does not allow that, only those are printed that are still in force then.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import subprocess
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError, IptrecError, strerror
from iptrec.kernel import iptables, process
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.legacy.printer import REFUSED, Request
from iptrec.kernel.legacy.saved import normal

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.kernel.legacy.digest import Copy
    from iptrec.kernel.legacy.replacements import Replacements
    from iptrec.kernel.legacy.saved import Saved
    from iptrec.kernel.legacy.states import State
    from iptrec.names import Family

_MOST_BYTES: Final = 64 << 20  # of copies that wait; more are not kept
_PATIENCE_S: Final = 20.0  # in the end
_LEVELS: Final[dict[Family, int]] = {"ipv4": socket.SOL_IP, "ipv6": socket.IPPROTO_IPV6}
_REFUSED: Final = (
    "legacy iptables: iptables-save cannot print a copy of a table here ({}): rules that went before they were"
    " printed are recorded without text; packets that met them are told as unsure"
)


class RefusedError(HostError):
    """Copies cannot be printed on this host."""


class Printing:
    """A thread that completes states with their text, and hands them to ``found`` in their order.

    ``saved``: texts of states that are known already. ``replacements``: of tables, if they are told.
    """

    def __init__(
        self,
        saved: Saved,
        found: Callable[[State | IptrecError], None],
        replacements: Replacements | None,
    ) -> None:
        self._saved = saved
        self._found = found
        self._replacements = replacements
        self._waiting: deque[tuple[State, Copy | None, int]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._of_copy: _Printer | None = _Printer()
        self._thread = threading.Thread(target=self._run, name="iptrec-print", daemon=True)
        self._started = False

    def put(self, state: State, copy: Copy | None = None) -> None:
        """Report a state in its turn; ``copy``: of it, None where nobody knows how it was."""
        with self._changed:
            if not self._started:
                self._thread.start()
                self._started = True
            waiting = sum(len(one.entries) for _, one, _ in self._waiting if one is not None)
            kept = None if copy is not None and waiting > _MOST_BYTES else copy
            self._waiting.append((state, kept, self._begun()))
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when all states are reported; as unknown where they take too long."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._waiting, _PATIENCE_S):
                self._waiting = deque((state, None, 0) for state, *_ in self._waiting)
                if self._of_copy is not None:
                    self._of_copy.kill()
                self._changed.wait_for(lambda: not self._waiting)

    def stop(self) -> None:
        """Report what waits, and end."""
        self.drain()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._started:
            self._thread.join()
        if self._of_copy is not None:
            self._of_copy.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    return
                state, copy, begun = self._waiting[0]
            self._found(state if copy is None else self._with_text(state, copy, begun))
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()

    def _with_text(self, state: State, copy: Copy, begun: int) -> State:
        """The state with what iptables-save prints of the copy, where that is known."""
        content = self._saved.get(state.family, copy.digest)
        try:
            content = content or self._printed(state, copy, begun)
        except IptrecError as error:
            self._found(error)
        except OSError as error:
            self._found(HostError(strerror(error)))
        if content is not None:
            self._saved.keep(state.family, copy.digest, content)
        return replace(state, content=content)

    def _printed(self, state: State, copy: Copy, begun: int) -> bytes | None:
        if self._of_copy is not None:
            try:
                return self._of_copy.printed(state.family, state.table, copy)
            except RefusedError as error:
                self._of_copy.close()
                self._of_copy = None
                self._found(HostError(_REFUSED.format(error)))
        return self._still_there(state, copy, begun)

    def _still_there(self, state: State, copy: Copy, begun: int) -> bytes | None:
        """What is printed now, if no table was replaced since the copy was made."""
        _, text = iptables.save(state.family, table=state.table, counters=False)
        with Tables(state.family) as tables:
            there = tables.digest(state.table) == copy.digest and self._begun() == begun
        return normal(text) if there else None

    def _begun(self) -> int:
        """How many replacements of tables ever began."""
        return 0 if self._replacements is None else self._replacements.begun


class _Printer:
    """The process that prints copies (`printer`): started where one is to be printed, it ends when none is."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def printed(self, family: Family, table: str, copy: Copy) -> bytes:
        """What iptables-save prints of a copy. Raises `RefusedError`, and `HostError` as `iptables.save`."""
        command = [iptables.command_of(family, "save"), "-t", table]
        request = Request(command, process.environment(), _LEVELS[family], copy.info, copy.entries)
        status, output, complained = self._asked(request)
        done = subprocess.CompletedProcess(command, status, output, complained)
        if status == REFUSED:
            raise RefusedError(complained.decode("utf-8", "backslashreplace"))
        iptables.check(command, done)
        return normal(output)

    def _asked(self, request: Request) -> tuple[int, bytes, bytes]:
        """The answer to a request; asked again where the process ended by itself just then."""
        for _ in range(2):
            if self._child is None:
                self._child = _started()
            try:
                return _answer(self._child, request)
            except (EOFError, BrokenPipeError):
                if self._child.wait() != 0:
                    break
                self.close()
            except ValueError:
                break
        raise RefusedError("the process that prints it has ended")

    def kill(self) -> None:
        """Let what it is printing be given up."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End it."""
        if self._child is not None:
            self._child.kill()  # it changes nothing, and may be at work
            with contextlib.suppress(BrokenPipeError), self._child:  # of what it has not read
                self._child = None


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        process.iptrec(str(os.getpid()), module="iptrec.kernel.legacy.printer"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=process.environment(),
    )


def _answer(child: subprocess.Popen[bytes], request: Request) -> tuple[int, bytes, bytes]:
    requests, answers = child.stdin, child.stdout
    assert requests is not None and answers is not None  # noqa: PT018, S101 - see `_started`
    marshal.dump(tuple(request), requests)
    requests.flush()
    answer: tuple[int, bytes, bytes] = marshal.load(answers)  # noqa: S302 - of our own child
    return answer
