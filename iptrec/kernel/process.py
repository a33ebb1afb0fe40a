"""Which program runs when we start one: never one that the current directory or a stranger's PATH offers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel.deadline import Deadline
from iptrec.libc import libc

if TYPE_CHECKING:
    from collections.abc import Mapping

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
SYSTEM: Final = (
    "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
)  # fmt: skip
_KEPT: Final = ("XTABLES_LOCKFILE",)  # iptables(8)
# The directory of the running package, where the isolated interpreter does not know it: an installation
# that was found through PYTHONPATH, or in root's own site-packages.
_START: Final = """\
import sys
from importlib import import_module
module, home = sys.argv.pop(1), sys.argv.pop(1)
if home not in sys.path:
    sys.path.insert(0, home)
import_module(module).main()
"""


class UnendedError(HostError):
    """A program was killed because it took too long."""


def end_with_parent(parent: int) -> None:
    """End when the process that started us does (prctl(2)). Becoming another user takes that back.

    ``parent``: what that one knows itself by (getpid(2)): in a container it is number 1, whose children
    elsewhere are those that nobody else is the parent of any more.
    """
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it has ended meanwhile
        sys.exit(0)


def search_path() -> str:
    """The directories in which programs are looked for, as PATH.

    Root finds the system's programs first. Relative directories, among them the empty one, are left out:
    they would mean whatever directory we happen to be in.
    """
    own = [one for one in os.environ.get("PATH", "").split(":") if one.startswith("/")]
    places = [*SYSTEM, *own] if os.geteuid() == 0 else [*own, *SYSTEM]
    return ":".join(dict.fromkeys(places))


def environment() -> dict[str, str]:
    """What a program that we run gets: it finds what we would find, speaks English, and loads nothing else.

    XTABLES_LIBDIR, LD_LIBRARY_PATH and the like would tell it whose code to load.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"PATH": search_path(), "LC_ALL": "C"}


def python(*arguments: str) -> list[str]:
    """A new interpreter that imports nothing from the current directory or PYTHON* (python(1), -I)."""
    return [sys.executable, "-I", *arguments]


def iptrec(*arguments: str, module: str = "iptrec.__main__") -> list[str]:
    """This very iptrec in a new process: the ``main`` of a module."""
    return python("-c", _START, module, str(Path(__file__).parents[2]), *arguments)


def run(
    command: list[str],
    text: bytes = b"",
    *,
    until: Deadline | None = None,
    beside: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a session of its own: the user's Ctrl-C must not stop it half way.

    What is inheritable is inherited: the pipe by which the `guardian` knows that somebody is at work.
    ``until``: when one that changes nothing is killed. Raises `UnendedError` then.
    ``beside``: what its environment has beside `environment`.
    """
    until = until or Deadline()
    # Or it came to the child before that is in its session.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            close_fds=False,
            env=environment() | dict(beside or {}),
        ) as child:
            printed = said = None
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                with until.killing(child), contextlib.suppress(subprocess.TimeoutExpired):
                    printed, said = child.communicate(text, until.left_s)
            finally:
                child.kill()  # does nothing to one that has ended
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if printed is None or until.killed(child):
        raise UnendedError(
            f"{Path(command[0]).name} does not come to an end:"
            " the rules are too many, or change all the time"
        )
    return subprocess.CompletedProcess(command, child.returncode, printed, said)
