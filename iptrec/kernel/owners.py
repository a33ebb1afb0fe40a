"""Who holds sockets: the processes that have them open, and the paths of their control groups.

/proc and /sys/fs/cgroup tell; what may not be read is left out and counted. Other processes of one's own
user may be asked, those of others need CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec.kernel import netlink

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC: Final = Path("/proc")
_CGROUPS: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_INODE: Final = struct.Struct("=68xI")  # idiag_inode, the last field of struct inet_diag_msg
_CGROUP_ID: Final = 21  # INET_DIAG_CGROUP_ID, since Linux 5.7
_PATIENCE_S: Final = 1.0  # for each of both
_LONGEST: Final = 1 << 14  # bytes of what is told about a process


def dump(sockets: bytes, proc: Path = _PROC) -> bytes:
    """The snapshot "owners", JSON: of the sockets in the snapshot ``sockets``.

    ``processes``: those that hold one, with the text of their /proc/PID/cgroup. ``unread``: how many
    processes may not be looked at. ``cut``: whether there was no time for all. ``cgroups``: id -> path.
    """
    inodes, groups = _wanted(sockets)
    found = _Found(inodes, proc)
    if inodes:
        found.look(time.monotonic() + _PATIENCE_S)
    told = {
        "processes": found.processes,
        "unread": found.unread,
        "cut": found.cut,
        "cgroups": paths(groups, time.monotonic() + _PATIENCE_S),
    }
    return json.dumps(told).encode()


def _wanted(sockets: bytes) -> tuple[set[int], set[int]]:
    """The inodes of the sockets, and the numbers of their control groups."""
    inodes, groups = set(), set()
    for one in netlink.messages(sockets):
        if one.kind == _BY_FAMILY and len(one.body) >= _INODE.size:
            inodes.add(_INODE.unpack_from(one.body)[0])
            for kind, value in netlink.attributes(one.body[_INODE.size :]):
                if kind == _CGROUP_ID:
                    groups.add(int.from_bytes(value, "little"))
    return inodes - {0}, groups


class _Found:
    """The processes that were found to hold one of some sockets."""

    def __init__(self, inodes: set[int], proc: Path) -> None:
        self._names = {f"socket:[{one}]": one for one in inodes}
        self._proc = proc
        self.processes: list[dict[str, Any]] = []
        self.unread = 0
        self.cut = False

    def look(self, until: float) -> None:
        """Look at one process after the other, up to a time."""
        for one in self._proc.iterdir():
            if not one.name.isdecimal():
                continue
            if time.monotonic() > until:
                self.cut = True
                return
            try:
                self._look_at(one)
            except PermissionError:
                self.unread += 1
            except OSError:  # it is gone
                continue

    def _look_at(self, process: Path) -> None:
        held = {self._names[name] for name in _open_in(process / "fd") if name in self._names}
        if held:
            self.processes.append(
                {
                    "pid": int(process.name),
                    "comm": _text(process / "comm").removesuffix("\n"),
                    "cgroup": _text(process / "cgroup"),
                    "sockets": sorted(held),
                }
            )


def _open_in(directory: Path) -> Iterator[str]:
    """What the descriptors of a process are."""
    with os.scandir(directory) as every:
        for one in every:
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(one.path)  # noqa: PTH115 - there are thousands


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_LONGEST).decode("utf-8", "backslashreplace")


def paths(wanted: set[int], until: float) -> dict[int, str]:
    """The control groups with these numbers, as far as found by then (monotonic, s).

    That of a group is its directory's inode.
    """
    found: dict[int, str] = {}
    root = next((one for one in _CGROUPS if (one / "cgroup.controllers").exists()), None)
    if root is None:
        return found
    if (number := root.stat().st_ino) in wanted:
        found[number] = "/"
    left = [str(root)]
    while left and found.keys() != wanted and time.monotonic() < until:
        with contextlib.suppress(OSError), os.scandir(left.pop()) as every:
            for one in every:
                if one.is_dir(follow_symlinks=False):
                    left.append(one.path)
                    if one.inode() in wanted:
                        path = one.path.removeprefix(str(root))
                        found[one.inode()] = os.fsencode(path).decode("utf-8", "backslashreplace")
    return found
