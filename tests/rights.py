"""What the tests may do here."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from iptrec.kernel import process

# Root of a user namespace has rights over nobody else.
IS_ROOT = os.geteuid() == 0 and "4294967295" in Path("/proc/self/uid_map").read_text()
ROOT = pytest.mark.skipif(not IS_ROOT, reason="only root has more rights than others")

LINUX = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


def since(major, minor, what):
    """Skip a test on older kernels, which lack ``what``."""
    return pytest.mark.skipif(
        (major, minor) > LINUX,
        reason=f"{what}: since Linux {major}.{minor}, not on {os.uname().release}",
    )


def installed(command):
    """Whether there is such a program, where administrators' are as well."""
    return shutil.which(command, path=process.search_path()) is not None
