"""How a user's Wireshark gets a recorder that may trace: by its own rights, by sudo, by pkexec.

Nobody is asked on a terminal. What sudo and pkexec are to allow is one command, ``iptrec extcap capture``: it
starts no other, writes packets to a pipe that it inherits, and handles files as the user who asked.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import UsageError, strerror
from iptrec.identity import behind_sudo, only_root_changes, open_led_by_root
from iptrec.kernel import privileges, process

if TYPE_CHECKING:
    from collections.abc import Sequence

# sudo(8): 1 where it may not, or would have to ask; nothing of ours ends so. pkexec(1): 126, 127.
_REFUSED: Final = {"sudo": frozenset({1}), "pkexec": frozenset({126, 127})}
_WITHOUT_ASKING: Final = {"sudo": ("-n", "--"), "pkexec": ("--disable-internal-agent",)}
_NAMESPACE: Final = re.compile(r"/proc/[0-9]+/ns/net|/run/netns/[^/]+|/run/docker/netns/[^/]+")


@dataclass(frozen=True, slots=True)
class Way:
    """A command that records; ``refused``: the exit statuses that say that it was not even begun."""

    command: Sequence[str]
    refused: frozenset[int]


def ways(arguments: Sequence[str]) -> list[Way]:
    """In the order in which they are to be tried; ``arguments``: of iptrec."""
    if privileges.has_net_admin():
        return [Way(process.iptrec(*arguments), frozenset())]
    found = []
    for name in ("sudo", "pkexec"):
        if (program := shutil.which(name, path=process.search_path())) is not None:
            command = [program, *_WITHOUT_ASKING[name], *_installed(), *arguments]
            found.append(Way(command, _REFUSED[name]))
    return found


def none() -> str:
    """What to do where none of them works."""
    return (
        f"capturing needs root: have sudo or polkit allow you `{shlex.join(_installed())} extcap capture` (see"
        " iptrec extcap --help), or run: sudo iptrec trace --pcapng - | wireshark -k -i -"
    )


def _installed() -> list[str]:
    """The iptrec that rules of sudo and polkit name: the system's, else that of this environment.

    Without either, as it runs now, for who may run anything.
    """
    beside = Path(sys.executable).with_name("iptrec")
    found = shutil.which("iptrec", path=":".join(process.SYSTEM)) or shutil.which(beside)
    return [str(found)] if found else process.iptrec()


def take_caller() -> None:
    """Let files be those of who ran pkexec, as they are of who ran sudo (`identity.behind_sudo`)."""
    if "PKEXEC_UID" in os.environ:
        os.environ["SUDO_UID"] = os.environ["PKEXEC_UID"]
        os.environ.pop("SUDO_GID", None)


def require_callers(output: Path | None, netns: str) -> None:
    """Raise `UsageError` for what a caller who may run this alone could not do without us.

    Elsewhere root makes a file in a directory of root's, and gives it to who ran sudo (`files.Place`), who may
    do so anyway. One who may not could put a file of theirs among root's. Nor is a path opened that is not of a
    namespace: that alone tells whether it is there.
    """
    if behind_sudo() is None:
        return
    if "/" in netns and not _NAMESPACE.fullmatch(netns):
        raise UsageError(f"--netns {netns!r}: give a name of ip netns, a pid, or /proc/PID/ns/net")
    if output is None:
        return
    if "%" in str(output):  # it would be taken for another name
        raise UsageError(f"--output {output}: a name with % in it is not taken")
    try:
        found = open_led_by_root(output.parent)
    except OSError as error:
        raise UsageError(f"cannot create {output}: {strerror(error)}") from None
    if found is not None:
        roots = only_root_changes(found)
        os.close(found)
        if roots:
            raise UsageError(f"cannot create {output}: {os.strerror(errno.EACCES)}")
