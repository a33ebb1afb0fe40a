"""The network namespaces that a capture can be of, as far as this user sees them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from iptrec.extcap.sentences import Choice
from iptrec.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Iterator


def choices() -> list[Choice]:
    """Those beside ours, each once: by its name, else by a process in it.

    Without root only those of `ip netns` and of the user's own processes are seen.
    """
    with contextlib.suppress(OSError):
        return sorted(_found(), key=lambda one: (one.value.isdigit(), len(one.value), one.value))
    return []


def _found() -> Iterator[Choice]:
    ours = Path("/proc/self/ns/net").stat().st_ino
    for inode, paths in netns.namespaces().items():
        if inode != ours:
            yield _choice(paths)


def _choice(paths: list[Path]) -> Choice:
    """By the path that lasts longest: a name of `ip netns`, what Docker has, a process."""
    for path in paths:
        if path.parts[:3] == ("/", "run", "netns"):
            return Choice(path.name, path.name)
    for path in paths:
        if path.parts[1] == "run":
            return Choice(str(path), f"Docker {path.name}")
    pid = paths[0].parts[2]
    return Choice(pid, f"process {pid}{_command(pid)}")


def _command(pid: str) -> str:
    """What it is called, where that can be said."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        name = Path("/proc", pid, "comm").read_text(encoding="utf-8").strip()
        if name and Choice("", name).sayable:
            return f" ({name})"
    return ""
