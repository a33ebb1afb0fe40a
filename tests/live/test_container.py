"""iptrec in a container.

It is the first process there: it gets only signals that it answers, and its children's parent is number 1. The
host's /run/iptrec is mounted, so that the host finds what a killed container has left behind.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import recorder
from command import IPTREC
from recorder import until

from iptrec.kernel import process

pytestmark = [pytest.mark.live, pytest.mark.cold]

NOT_BEGUN = """
import time, iptrec.__main__ as started
started._open_standard_streams = lambda: print(flush=True) or time.sleep(60)
started.main()
"""
FIRST = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
PING = ("ping", "-c1", "-W1", "127.0.0.1")


def first(child):
    """The process that is number 1 to itself; ``child`` waits for it."""
    (pid,) = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return int(pid)


def test_it_is_the_first(lab):
    """What is tried here."""
    assert lab.run([*FIRST, *process.python("-c", "import os; print(os.getpid())")]).stdout == "1\n"


def test_trace_shows_packets(lab, backend):
    """Whoever shows them takes its parent for what it is: nobody has inherited it."""
    trace = [*FIRST, *IPTREC, "trace", "--json", "--backend", backend, "icmp", "--", *PING]
    done = lab.run(trace)
    shown = [
        json.loads(line)["header"]["proto"] for line in done.stdout.splitlines() if line[0] == "{"
    ]
    assert shown == ["icmp"] * 4


def test_stop_on_stops(lab, tmp_path):
    """So does who looks for a packet."""
    lab.run(["iptables-legacy", "-A", "INPUT", "-p", "icmp", "-j", "DROP"])
    child = recorder.start(
        lab, "-o", tmp_path / "t.db", "--stop-on", "DROP", "icmp", before=[*FIRST, *IPTREC]
    )
    lab.run([*PING], check=False)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "stopped by #" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_recording(lab, tmp_path, number):
    """As docker stop and Ctrl-C send them: rules are gone, the file is whole."""
    rules = lab.run(["iptables-legacy-save"]).stdout
    child = recorder.start(lab, "-o", tmp_path / "t.db", "icmp", before=[*FIRST, *IPTREC])
    os.kill(first(child), number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "recorded 0 events (none lost)" in said
    assert "TRACE" not in rules + lab.run(["iptables-legacy-save"]).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_what_has_not_begun(lab, number):
    """While the command line is loaded, too, when a process that is not the first simply dies."""
    child = lab.popen([*FIRST, sys.executable, "-c", NOT_BEGUN], stdout=subprocess.PIPE)
    child.stdout.readline()
    os.kill(first(child), number)
    assert child.wait(timeout=10) == 128 + number


def test_a_copy_when_asked(lab, tmp_path):
    """SIGUSR1, as docker kill and kubectl exec send it."""
    child = recorder.start(
        lab, "-o", tmp_path / "t.db", "--ring", "1m", "icmp", before=[*FIRST, *IPTREC]
    )
    os.kill(first(child), signal.SIGUSR1)
    until(lambda: len([*tmp_path.glob("t-*.db")]) == 1)
    os.kill(first(child), signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 0


def test_the_list_of_changes_is_in_a_directory_that_is_mounted(lab, tmp_path):
    """A file gets its name on the file system that it was made on."""
    lab.run(["mkdir", "/run/iptrec"])
    lab.run(["mount", "-t", "tmpfs", "tmpfs", "/run/iptrec"])
    child = recorder.start(lab, "-o", tmp_path / "t.db", "icmp")
    assert len(lab.run(["ls", "/run/iptrec"]).stdout.split()) == 1
    recorder.stop(child)
    assert lab.run(["ls", "/run/iptrec"]).stdout == ""


def test_root_that_may_not_record_is_told_what_a_container_needs(lab):
    """It is root already: sudo would change nothing."""
    weak = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = lab.run([*weak, *IPTREC, "record"], check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "iptrec: recording needs CAP_NET_ADMIN, which this root does not have; a container gets it by --cap-add"
        " NET_ADMIN\n"
    )
