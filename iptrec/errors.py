"""What can go wrong, as one line for the user and one exit status for the caller.

An error's text names the object (file, chain, namespace, option), the fact, and what to do next.
It is printed once, in ``iptrec.cli``; nothing else in iptrec prints errors or exits.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NamedTuple

EXIT_DONE = 0
EXIT_NO = 1
EXIT_TROUBLE = 2


_GONE = "the current directory is gone: change to another one"


class Advice(NamedTuple):
    """What to give instead: in the words of the command line, and in those of the Python API."""

    typed: str
    called: str


FORCE: Final = Advice("--force", "force=True")
ANOTHER_OUTPUT: Final = Advice("another -o", "another output")
TIMEOUT: Final = Advice("--timeout", "timeout_s")
IFACE: Final = Advice("--iface", "iface")


class IptrecError(Exception):
    """Something that the user can read and act on; exit status 2.

    Made of texts and `Advice`; as a text it has the words of the Python API.
    """

    exit_status = EXIT_TROUBLE

    def __init__(self, *parts: str | Advice) -> None:
        super().__init__(*parts)
        self.parts = parts

    def __str__(self) -> str:
        return "".join(one.called if isinstance(one, Advice) else one for one in self.parts)

    @property
    def typed(self) -> str:
        """The same for who typed a command."""
        return "".join(one.typed if isinstance(one, Advice) else one for one in self.parts)


class UsageError(IptrecError):
    """An option or argument cannot be meant as it stands (bad filter, unknown interface)."""


class HostError(IptrecError):
    """The kernel or the host refuses: rights, modules, namespaces, locks, a taken nflog group."""


class TakenError(HostError):
    """Another program has what only one can have at a time; it may be free soon."""


class RecordingError(IptrecError):
    """A recording cannot be read or written: no recording, damaged, newer format, disk full."""


class AbandonedError(RecordingError):
    """A recorder that one follows has ended and left its file unreadable; it says itself why."""


def missing(what: str, package: str, extra: str) -> UsageError:
    """The error of ``what`` where an optional package is missing; ``extra``: of iptrec's, which brings it.

    The .deb, the .rpm and the single file have a Python of their own, in which pip installs nothing.
    """
    advice = f"pip install 'iptrec[{extra}]'"
    if getattr(sys, "frozen", False):  # PyInstaller sets it
        advice = (
            f"which this build of iptrec does not have; install iptrec by pip instead: {advice}"
        )
        return UsageError(f"{what} needs {package}, {advice}")
    return UsageError(f"{what} needs {package}: {advice}")


def strerror(error: OSError) -> str:
    """What the system says, without Python's "[Errno 2]" before it and the file behind it."""
    return error.strerror or str(error)


def located(error: OSError) -> str:
    """The same, after the file that it says it of, if it tells which; getcwd(3) does not."""
    if error.filename:
        return f"{error.filename}: {strerror(error)}"
    return _GONE if isinstance(error, FileNotFoundError) and _is_gone() else strerror(error)


def _is_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False
