"""How a user's Wireshark gets a recorder that may trace: by its own rights, by sudo, by pkexec.

Nobody is asked on a terminal. What sudo and pkexec are to allow is one command, ``iptrec extcap capture``: it
starts no other, writes packets to a pipe that it inherits, and handles files as the user who asked.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iptrec.kernel import privileges, process

if TYPE_CHECKING:
    from collections.abc import Sequence

# sudo(8): 1 where it may not, or would have to ask; nothing of ours ends so. pkexec(1): 126, 127.
_REFUSED: Final = {"sudo": frozenset({1}), "pkexec": frozenset({126, 127})}
_WITHOUT_ASKING: Final = {"sudo": ("-n", "--"), "pkexec": ("--disable-internal-agent",)}
NONE: Final = (
    "capturing needs root: have sudo or polkit allow you `iptrec extcap capture` (see iptrec extcap --help), or"
    " run: sudo iptrec trace --pcapng - | wireshark -k -i -"
)


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


def _installed() -> list[str]:
    """The iptrec that rules of sudo and polkit name: the system's. Else this one, for who may run anything."""
    found = shutil.which("iptrec", path=":".join(process.SYSTEM))
    return [found] if found else process.iptrec()


def take_caller() -> None:
    """Let files be those of who ran pkexec, as they are of who ran sudo (`identity.behind_sudo`)."""
    if "PKEXEC_UID" in os.environ:
        os.environ["SUDO_UID"] = os.environ["PKEXEC_UID"]
        os.environ.pop("SUDO_GID", None)
