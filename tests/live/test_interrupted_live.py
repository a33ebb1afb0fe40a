"""Ctrl-C at any moment of a recorder's life: no traceback, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest
from command import ANSWERING
from recorder import processes, until
from test_guardian import state

pytestmark = pytest.mark.live
KILLS = int(os.environ.get("IPTREC_KILLS", "15"))  # for each backend


def record(lab, path, backend, moment=None):
    """Record for two seconds, or until Ctrl-C so many seconds after the start: status, stderr."""
    options = ("-o", str(path), "--backend", backend, "--duration", "2s")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with lab.popen([*ANSWERING, "record", *options], **pipes) as child:
        child.stdout.readline()
        if moment is not None:
            time.sleep(moment)  # the moment is what is tested, nothing is waited for
            child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    return child.returncode, said


@pytest.mark.timeout(120 + 10 * KILLS)
def test_record_at_any_moment(lab, tmp_path, backend):
    """Where it had begun there is a recording; before that there is no file. All else is as before."""
    record(lab, tmp_path / "first.db", backend)  # the kernel keeps tables that it has loaded
    before, alive = state(lab), processes(lab)
    files = {tmp_path / "first.db"}
    for number in range(KILLS):
        moment = random.uniform(0, 0.6)  # noqa: S311
        path = tmp_path / f"{number}.db"
        status, said = record(lab, path, backend, moment)
        files |= {path} if status == 0 else set()
        assert status in {0, 130, -signal.SIGINT}, (moment, said)
        assert ("recorded " in said) == (status == 0), (moment, said)
        assert status == 0 or not said.strip(), (moment, said)
        assert {*tmp_path.iterdir()} == files, moment
        until(lambda: processes(lab) == alive, moment)
        assert state(lab) == before, moment
