"""The README's first command, as root and without."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.live


def namespaces(mark):
    """The network namespaces of all processes that inherited a mark in their environment."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.add(os.readlink(process / "ns/net"))  # noqa: PTH115
    return found


@pytest.mark.usefixtures("labs")
def test_demo_shows_the_dropped_packet_and_leaves_nothing(tmp_path):
    """It prints the trace, keeps the file if asked, and its namespaces are gone."""
    output = tmp_path / "demo.db"
    mark = f"IPTREC_DEMO={output}"
    with subprocess.Popen(
        [sys.executable, "-m", "iptrec", "demo", "-o", str(output)],
        env=dict([*os.environ.items(), mark.split("=")]),
        stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        seen = set()
        while child.poll() is None:
            seen |= namespaces(mark)
            time.sleep(0.01)
        printed = child.stdout.read()
    assert child.returncode == 0
    assert len(seen) >= 2  # ours and its router's, and those of hosts while something runs there
    decided = "by filter/DOCKER-ISOLATION-STAGE-2 rule 1: -o hairpin-8-1 -j DROP\n"
    assert f" DROP tcp 172.22.0.2:41242 > 172.17.0.3:1242 in hairpin-8-2 {decided}" in printed
    assert output.exists()
    assert namespaces(mark) == set()
