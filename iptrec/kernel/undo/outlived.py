"""A directory that goes with the processes which work in it, also where these are killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Final

from iptrec.kernel.process import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHELL: Final = "/bin/sh"
_REMOVE: Final = 'read -r _; exec rm -rf -- "$0"'  # read ends with the last who could write


@contextlib.contextmanager
def outlived(directory: Path) -> Iterator[int]:
    """Have a child remove a directory when nobody holds the descriptor any more that this gives.

    The child has a session of its own, as Ctrl-C is not for it.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(reading, "rb") as end:
        child = subprocess.Popen(
            [_SHELL, "-c", _REMOVE, str(directory)],
            stdin=end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment(),
            cwd="/",
        )
    try:
        yield writing
    finally:
        os.close(writing)
        child.wait()
