"""tools/spark-cluster: the cluster ends with its command, or by a signal, and nothing is left."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "spark-cluster"
# Prints how many workers there are, then ends or stays.
COUNT = 'pgrep -fc "org[.]apache[.]spark[.]deploy[.]worker.*$MASTER"'
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None, reason="pyspark: not installed"
)


@pytest.fixture
def started(tmp_path):
    """A function that starts the script, which keeps its files where nobody else has any."""
    children = []

    def start(*words):
        child = subprocess.Popen(
            [sys.executable, SCRIPT, *words],
            env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def left(folder):
    """Files, and processes that know the folder."""
    found = [*folder.iterdir()]
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [one] if str(folder) in one.read_text(errors="replace") else []
        except OSError:  # it has ended meanwhile
            continue
    return found


def test_it_ends_with_its_command(started, tmp_path):
    """With the status of that."""
    child = started("--workers", "3", "bash", "-c", f"{COUNT}; exit 7")
    assert (child.communicate(timeout=120)[0], child.returncode) == ("3\n", 7)
    assert left(tmp_path) == []


def test_it_ends_by_a_signal(started, tmp_path):
    """The command gets it, and then the cluster ends."""
    child = started(
        "bash", "-c", "trap 'echo heard; kill $!; exit' TERM; echo ready; sleep 600 & wait"
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert (child.communicate(timeout=60)[0], child.returncode) == ("heard\n", 143)
    assert left(tmp_path) == []


def test_no_process_outlives_it(started, tmp_path):
    """When it is killed, which nobody can answer."""
    child = started("bash", "-c", "echo ready; exec sleep 2")
    child.stdout.readline()
    child.kill()
    deadline = time.monotonic() + 60
    while any(one.name == "cmdline" for one in left(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
