"""Killed at any moment, even in its first, a recorder leaves a recording or nothing.

`IPTREC_KILLS=300 pytest tests/recording/test_kill.py` for more moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from iptrec.recording.home import COMPANIONS
from iptrec.recording.reader import Reader

KILLS = int(os.environ.get("IPTREC_KILLS", "30"))
FIRST_S = 0.2  # after the file has appeared
WRITE = """
import os, sys, time
from pathlib import Path
import numpy as np
from iptrec.recording.rows import Facts
from iptrec.recording.writer import Writer
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        facts = Facts("u", "0.1", "Linux", "h", (), None, (), (), 256, 5, 6)
        with Writer.create(Path(line.strip()), facts) as writer:
            stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
            while True:
                writer.append(stream, 1, np.array([4], np.uint32), b"kept")
                writer.commit()
                writer.add_snapshot(1, "links", 1, "links", os.urandom(5000))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.fixture
def writers():
    """A process that makes a writer in a fork, for each path that it is told."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield child
    child.stdin.close()
    child.wait()
    child.stdout.close()


def appeared(directory):
    """Wait until there is a file."""
    deadline = time.monotonic() + 30
    while not os.listdir(directory):  # noqa: PTH208 - as fast as it can be
        assert time.monotonic() < deadline


def test_killed_in_its_first_moments(tmp_path, writers):
    """SIGKILL at random moments, half of them within two milliseconds: whatever stays is a recording."""
    left = []
    for number in range(KILLS):
        directory = tmp_path / str(number)
        directory.mkdir()
        writers.stdin.write(f"{directory}/t.db\n")
        writers.stdin.flush()
        pid = int(writers.stdout.readline())
        appeared(directory)
        time.sleep(random.uniform(0, FIRST_S if number % 2 else 0.002))  # noqa: S311
        os.kill(pid, signal.SIGKILL)
        assert writers.stdout.readline() == "gone\n"
        left += [one for one in directory.iterdir() if not one.name.endswith(COMPANIONS)]
    # SQLite waits ten seconds where the -wal has a header that the -shm does not know: at once for all.
    with ThreadPoolExecutor(len(left)) as readers:
        list(readers.map(read, left))
    assert {one.name for one in left} == {"t.db"}


def read(path):
    """It opens, says that it was cut off, and what is in it is whole."""
    with Reader(path) as reader:
        assert reader.facts.uuid == "u"
        assert not reader.facts.closed
        assert all(chunk.data for chunk in reader.chunks())


@pytest.mark.live
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_killed_recorder_leaves_a_recording(lab, tmp_path, backend):
    """The same with the whole recorder."""
    for number in range(max(2, KILLS // 20)):
        directory = tmp_path / str(number)
        directory.mkdir()
        child = lab.popen(
            [sys.executable, "-m", "iptrec", "record", "-q", "--backend", backend,
             "-o", str(directory / "t.db")],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        appeared(directory)
        time.sleep(random.uniform(0, FIRST_S))  # noqa: S311
        child.kill()
        assert child.communicate(timeout=30)[1] == b""
        for path in directory.iterdir():
            if not path.name.endswith(COMPANIONS):
                with Reader(path) as reader:
                    assert not reader.facts.closed
