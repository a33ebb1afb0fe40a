"""What does not fit on the screen goes through a pager, as git does it: $PAGER, else less.

LESS is FRX where it is not set. Under sudo it is less alone, and that with LESSSECURE (less(1)): who may run
iptrec as root may not therefore run a shell.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SGR: Final = re.compile(r"\x1b\[[0-9;]*m")
_NONE: Final = ("", "cat")  # a PAGER that wants none


@contextlib.contextmanager
def paged() -> Iterator[TextIO]:
    """Stdout, a terminal; with a pager once the screen is full. When that is quit, what writes to it ends."""
    screen = _Screen()
    try:
        with contextlib.suppress(BrokenPipeError):
            yield cast("TextIO", screen)
            screen.finish()
    finally:
        screen.wait()


class _Screen:
    """Keeps what is written until it is known whether it fits."""

    def __init__(self) -> None:
        size = shutil.get_terminal_size()
        self._columns, self._rows = size.columns, size.lines
        self._waiting: list[str] = []
        self._out: TextIO | None = None
        self._pager: subprocess.Popen[str] | None = None

    def write(self, text: str) -> int:
        """Write it, now or later."""
        if self._out is not None:
            return self._out.write(text)
        self._waiting.append(text)
        self._rows -= sum(self._height(line) for line in text.splitlines())
        if self._rows <= 1:  # the prompt takes one
            self._pager = _start()
            self.finish()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is shown before it is known where."""
        if self._out is not None:
            self._out.flush()

    def finish(self) -> None:
        """Write what was kept."""
        if self._out is None:
            pipe = None if self._pager is None else self._pager.stdin
            self._out = sys.stdout if pipe is None else cast("TextIO", pipe)
            self._out.writelines(self._waiting)
        self._out.flush()

    def wait(self) -> None:
        """Until the pager is quit. Ctrl-C is for the pager to answer."""
        if self._pager is None:
            return
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with contextlib.suppress(BrokenPipeError):
                self._pager.communicate()
        finally:
            signal.signal(signal.SIGINT, before)

    def _height(self, line: str) -> int:
        width = len(_SGR.sub("", line).expandtabs())
        return max(1, -(-width // self._columns))


def _start() -> subprocess.Popen[str] | None:
    """The pager; None where there is none, or none is wanted."""
    from iptrec.kernel.process import search_path

    words = _command()
    program = words and shutil.which(words[0], path=search_path())
    if not program:
        return None
    return subprocess.Popen(
        [program, *words[1:]],
        stdin=subprocess.PIPE,
        env=_environment(),
        text=True,
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
    )


def _command() -> list[str]:
    if _behind_sudo():
        return ["less"]
    chosen = os.environ.get("PAGER", "less")
    try:
        return [] if chosen.strip() in _NONE else shlex.split(chosen)
    except ValueError:  # a quote is not closed
        return []


def _environment() -> dict[str, str]:
    secure = {"LESSSECURE": "1"} if _behind_sudo() else {}
    return {"LESS": "FRX", "LV": "-c"} | os.environ | secure


def _behind_sudo() -> bool:
    return os.geteuid() == 0 and "SUDO_UID" in os.environ
