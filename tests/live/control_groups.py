"""Control groups of version 2, such as containers have, for a test's own processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import recorder

ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


def identity(number=0):
    """What a container might be called, which no other worker has."""
    return f"{os.getpid():x}a{number}".ljust(64, "b")


@contextlib.contextmanager
def made(count):
    """Those that can be made; they are gone in the end, when nobody is in them."""
    root = next((one for one in ROOTS if (one / "cgroup.controllers").exists()), None)
    found = []
    if root is not None:
        with contextlib.suppress(OSError):
            for number in range(count):
                one = root / f"docker-{identity(number)}.scope"
                one.mkdir()
                found.append(one)
    yield found
    for one in found:
        recorder.until(lambda one=one: not (one / "cgroup.procs").read_text(), "somebody is left")
        one.rmdir()
