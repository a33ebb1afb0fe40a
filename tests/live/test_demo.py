"""The README's first command, as root and without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live


def namespaces():
    """All network namespaces that some process is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(link))  # noqa: PTH115
        except OSError:
            continue
    return found


def test_demo_shows_the_dropped_packet_and_leaves_nothing(lab_refusal, tmp_path):
    """It prints the trace, keeps the file if asked, and its namespaces are gone."""
    if lab_refusal is not None:
        pytest.skip(lab_refusal)
    before = namespaces()
    output = tmp_path / "demo.db"
    done = subprocess.run(
        [sys.executable, "-m", "iptrec", "demo", "-o", str(output)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "DROP by filter/DOCKER-ISOLATION-STAGE-2 rule 1" in done.stdout
    assert output.exists()
    assert namespaces() <= before
