"""Ctrl-C while a recording with a command is made ready: the command runs to its end only if it was started."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from command import ANSWERING

pytestmark = pytest.mark.live

MOMENTS = [0.1 * number for number in range(12)]


def test_ctrl_c_is_never_swallowed(lab, tmp_path):
    """The terminal tells all of the foreground's processes at once; who is not there yet does not hear it."""
    marker = tmp_path / "ran"
    words = [
        "record",
        "-o",
        tmp_path / "t.db",
        "--force",
        "--",
        "sh",
        "-c",
        f"sleep 100; >{marker}",
    ]
    told = set()
    for moment in MOMENTS:
        child = lab.popen(
            [*ANSWERING, *map(str, words)], start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        child.stdout.readline()
        time.sleep(moment)  # the moment is what is tested, nothing is waited for
        os.killpg(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=50)
        assert "Traceback" not in said
        told.add("was not started" in said)
        assert not marker.exists()
    assert False in told
