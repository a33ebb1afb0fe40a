"""The process that follows a recording ends when it is told to."""

from __future__ import annotations

import os
import sys

from iptrec.cli import follower

DEAF = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('begun', flush=True)\ntime.sleep(600)"
)


def test_one_that_does_not_hear_is_killed(monkeypatch):
    """Python may lose SIGTERM while it loads a module: the import system ignores what its callbacks raise."""
    monkeypatch.setattr("iptrec.kernel.process.iptrec", lambda *_: [sys.executable, "-c", DEAF])
    monkeypatch.setattr(follower, "_PATIENCE_S", 0.1)
    viewer = follower.Follower([])
    reading, writing = os.pipe()
    with open(reading, "rb") as said:  # noqa: PTH123 - no name
        with open(writing, "wb") as pipe:  # noqa: PTH123
            viewer.start(writing, pipe)
        assert said.readline() == b"begun\n"
        viewer.stop()
        assert said.read() == b""
