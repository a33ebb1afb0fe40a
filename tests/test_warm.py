"""A fork of the server is the process that Python would have started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from warm import ALONE, IPTREC

LOOPBACK = str(Path(__file__).parents[1] / "samples" / "loopback.db")
KEPT = ("Uid", "Gid", "Groups", "Umask", "PPid", "Threads", "Cap", "NoNewPrivs", "Sig", "Shd")


def facts(child):
    """What the kernel says of a process that waits for its stdin, its files included."""
    place = Path(f"/proc/{child.pid}")
    while "pipe_read" not in (place / "wchan").read_text():
        assert child.poll() is None
    files = {one.name: re.split("[:#]", str(one.readlink()))[0] for one in (place / "fd").iterdir()}
    lines = (place / "status").read_text().splitlines()
    return (
        [line for line in lines if line.startswith(KEPT) and not line.startswith("SigQ")],
        files,
        str((place / "cwd").readlink()),
        os.getpgid(child.pid) - os.getpgrp(),
        os.getsid(child.pid) == child.pid,
        (place / "limits").read_text(),
        (place / "timerslack_ns").read_text(),
    )


@pytest.mark.parametrize("session", [False, True])
def test_what_the_kernel_says_of_it(tmp_path, session):
    """Rights, signals, files, directory, umask, group and session, limits: all of a process of its own."""
    before = os.umask(0o027)
    told = []
    try:
        for start in (subprocess.Popen, warm.Popen):
            with start(
                [*IPTREC, "show", "-"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
                start_new_session=session,
            ) as child:  # fmt: skip
                found = facts(child)
                told.append(found[:3] + found[4:] if session else found)
                child.stdin.close()
                assert child.wait() == 2
    finally:
        os.umask(before)
    assert told[0] == told[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_signal_ends_it(number):
    """With the status of any process, which its parent gets."""
    ended = []
    for start in (subprocess.Popen, warm.Popen):
        with start(
            [*IPTREC, "show", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:  # fmt: skip
            facts(child)
            child.send_signal(number)
            child.wait()
            ended.append((child.returncode, child.stderr.read()))
    assert ended[0] == ended[1]


def test_a_reader_that_goes():
    """A closed pipe and a full device: the statuses and words of a process."""
    for place in ("pipe", "/dev/full"):
        ended = []
        for start in (subprocess.Popen, warm.Popen):
            if place == "pipe":
                reading, writing = os.pipe()
                os.close(reading)
            else:
                writing = os.open(place, os.O_WRONLY)
            with start(
                [*IPTREC, "show", LOOPBACK], stdout=writing, stderr=subprocess.PIPE
            ) as child:
                os.close(writing)
                said = child.stderr.read()
            ended.append((child.returncode, said))
        assert ended[0] == ended[1], place


def test_what_fits():
    """Everything else is started as it is."""
    assert warm.fits([*IPTREC, "show"], {})
    assert warm.fits([*ALONE, *IPTREC, "cleanup"], {"text": True})
    assert warm.fits([sys.executable, "-c", "pass"], {})
    assert not warm.fits([sys.executable, "-I", "-c", "pass"], {})
    assert not warm.fits([sys.executable, __file__], {})
    assert not warm.fits([*IPTREC], {"preexec_fn": print})
    assert not warm.fits([*IPTREC], {"env": {**os.environ, "LC_ALL": "C"}})
    with warm.cold(all_of_them=True):
        assert not warm.fits([*IPTREC], {})


def test_paths_are_words():
    """As `subprocess` takes them."""
    done = warm.run([*IPTREC, "info", Path(LOOPBACK)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("complete: ")


SCRIPTS = {
    "what it sees": """
import sys, __main__
def of_ours(): return VALUE
VALUE = 5
print(sys.argv, sys.path[0], __name__, __main__.of_ours(), [one for one in globals() if "_" not in one])
print(input())
""",
    "a status": "import sys; sys.exit(3)",
    "a word": "import sys; sys.exit('no')",
    "an error": "def f(): 1 / 0\nf()",
    "interrupted": "import signal; signal.raise_signal(2)",
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_a_script(case):
    """One that is forked is what `python -c` runs."""
    told = []
    for start in (subprocess.Popen, warm.Popen):
        with start(
            [sys.executable, "-c", SCRIPTS[case], "a", "b"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as child:  # fmt: skip
            said = child.communicate("typed\n")
            told.append((child.returncode, *said))
    ours = re.sub(r'(  File "(?!<string>).*\n    .*\n(    .*\n)?)', "", told[1][2])
    assert (*told[1][:2], ours) == told[0]
