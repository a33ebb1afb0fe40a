"""``iptrec pack`` at Ctrl-C and SIGTERM: no pack, and nothing among the temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import ANSWERING

SAMPLE = Path(__file__).parents[1] / "samples" / "kubernetes.db"
MOMENTS = [0.02 * number for number in range(25)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_any_moment(number, tmp_path):
    """It is there whole, or nothing is."""
    place = tmp_path / "tmp"
    place.mkdir()
    statuses = set()
    for moment in MOMENTS:
        made = tmp_path / "made.zip"
        command = [*ANSWERING, "pack", SAMPLE, "-o", made, "--redact", "--force", "-q"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(place)},
        ) as child:  # fmt: skip
            child.stdout.readline()
            time.sleep(moment)  # the moment is what is tested, nothing is waited for
            child.send_signal(number)
            _, said = child.communicate(timeout=60)
        statuses.add(child.returncode)
        assert "Traceback" not in said
        assert list(place.iterdir()) == []
        assert {one.name for one in tmp_path.iterdir()} <= {"tmp", "made.zip"}
        if child.returncode:
            assert not made.exists()
        made.unlink(missing_ok=True)
    assert statuses - {0}, "no moment was early enough"
