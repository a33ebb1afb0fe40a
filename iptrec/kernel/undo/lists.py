"""Lists of changes in /run/iptrec, each one locked while somebody is responsible for it.

Each line of a file is a whole list; the last one counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import HostError, strerror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.kernel.undo.changes import Changes

STATE: Final = Path("/run/iptrec")
_LINK_TRIES: Final = 5
_LARGEST: Final = 64 << 20  # bytes of a list that we believe


def read(descriptor: int) -> Changes | None:
    """The last list that was written whole; None if there is none, or none of ours."""
    from iptrec.kernel.undo.changes import Changes  # noqa: PLC0415 - loads numpy; see `after_kill`

    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return Changes.of_json(last(descriptor))
    return None


def last(descriptor: int) -> Any:  # noqa: ANN401 - JSON
    """The same as it is written; None if there is none."""
    begin = max(0, os.fstat(descriptor).st_size - _LARGEST)
    for line in reversed(os.pread(descriptor, _LARGEST, begin).splitlines(keepends=True)):
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                return json.loads(line)
            break
    return None


def write(changes: Changes, descriptor: int) -> None:
    """Write it down as the last one, or raise `HostError` and leave what is written."""
    text = (json.dumps(asdict(changes)) + "\n").encode()
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, text) == len(text):
            return
        fact = os.strerror(errno.ENOSPC)
    except OSError as error:
        fact = strerror(error)
    os.ftruncate(descriptor, size)
    raise HostError(f"cannot write down in {STATE} what has to be undone: {fact}; make room there")


def path_of(comment: str) -> Path:
    """Where the list of a recorder is found."""
    return STATE / f"{comment.removeprefix('iptrec:')}.json"


def found() -> Iterator[tuple[Path, int]]:
    """The lists that can be found here, each with a descriptor that is open meanwhile."""
    for path in sorted(STATE.glob("*.json")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                yield path, descriptor
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
            write(changes, descriptor)
        finally:
            os.close(descriptor)


def unnamed() -> int:
    """A file without a name that is locked while somebody has it open."""
    # Links lead nowhere else than the same mount: in a container the directory may be one of its own.
    where = STATE if STATE.is_dir() else STATE.parent
    try:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(where, flags, 0o600)
    except OSError:  # /run cannot be written: nobody will find it, but the guardian has it
        return os.memfd_create("iptrec", os.MFD_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def give_name(descriptor: int, path: Path) -> None:
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
