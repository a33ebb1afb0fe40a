"""The benchmarks: that each can be started. What they measure is no matter of tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize("name", sorted(one.stem for one in BENCH.glob("*.py")))
def test_it_can_be_loaded(name):
    """As `make bench` starts it: with its own directory in the path, and nothing of pytest's."""
    load = f"import sys; sys.path[0] = {str(BENCH)!r}; import {name}"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
