"""What the tests may do here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Root of a user namespace has rights over nobody else.
IS_ROOT = os.geteuid() == 0 and "4294967295" in Path("/proc/self/uid_map").read_text()
ROOT = pytest.mark.skipif(not IS_ROOT, reason="only root has more rights than others")
