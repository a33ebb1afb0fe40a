"""SIGTERM when the other end of stdin is closed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

WAITS = """\
import signal, sys
from iptrec.kernel import hangup
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
hangup.end_with(0)
print("waits", flush=True)
signal.sigtimedwait([signal.SIGUSR1], float(sys.argv[1]))
print("on it goes")
"""


def waiting(stdin, seconds=30):
    return subprocess.Popen(
        [sys.executable, "-c", WAITS, str(seconds)], stdin=stdin, stdout=subprocess.PIPE, text=True
    )


def pair(kind):
    """What the process reads, and what is closed."""
    if kind == "pipe":
        reading, writing = os.pipe()
        return os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
    return socket.socketpair()  # what sshd gives a command


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_it_ends(kind):
    ours, theirs = pair(kind)
    child = waiting(ours)
    ours.close()
    assert child.stdout.readline() == "waits\n"
    assert child.poll() is None
    theirs.close()
    assert child.communicate(timeout=30) == ("", None)
    assert child.returncode == 7


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_it_was_closed_before(kind):
    ours, theirs = pair(kind)
    theirs.close()
    child = waiting(ours)
    ours.close()
    assert child.communicate(timeout=30) == ("", None)
    assert child.returncode == 7


@pytest.mark.parametrize("path", [os.devnull, __file__])
def test_what_has_no_other_end(path):
    """Under cron and systemd stdin is /dev/null."""
    with open(path, "rb") as stdin:  # noqa: PTH123
        child = waiting(stdin, 0.2)
        assert child.communicate(timeout=30) == ("waits\non it goes\n", None)
    assert child.returncode == 0
