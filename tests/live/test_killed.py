"""What follows a recording ends with its recorder, also where that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import recorder

import iptrec

pytestmark = pytest.mark.live
RULES = {
    "legacy": "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p icmp -j ACCEPT\nCOMMIT\n",
    "nft": "table ip filter { chain INPUT { type filter hook input priority 0; icmp type 8 accept; }; }",
}
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
FOLLOW = """
import sys, iptrec
with iptrec.open(sys.argv[1]) as recording:
    assert recording.running
    for packet in recording.follow():
        print(packet.number, flush=True)
    print(recording.running, recording.facts.closed)
"""


@pytest.fixture(params=["legacy", "nft"])
def recording(request, lab, tmp_path):
    """A recorder at work with two packets in its file, and how to wait for its death."""
    command = ["iptables-legacy-restore"] if request.param == "legacy" else ["nft", "-f", "-"]
    lab.run(command, stdin=RULES[request.param])
    path = tmp_path / "t.db"
    child = recorder.start(lab, "icmp", "--backend", request.param, "-o", path, notes=True)
    lab.run(["ping", "-c1", "127.0.0.1"])
    return child, path


def info(path):
    told = subprocess.check_output([sys.executable, "-m", "iptrec", "info", path], text=True)
    (line,) = [line for line in told.splitlines() if line.startswith("stopped:")]
    return line.split(maxsplit=1)[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(
    "program", [["-c", FOLLOW], ["-m", "iptrec", "show", "--follow", "--json"]], ids=["api", "show"]
)
def test_it_ends_with_the_recorder(recording, number, program):
    """After all that the file has."""
    child, path = recording
    with subprocess.Popen([sys.executable, *program, path], text=True, **PIPES) as follower:
        first = follower.stdout.readline()
        assert info(path) == "still recording"
        child.send_signal(number)
        rest, noted = follower.stdout.read(), follower.stderr.read()
    child.communicate(timeout=60)
    assert "Traceback" not in noted
    told = (first + rest).splitlines()
    closed = number == signal.SIGINT
    if program[0] == "-c":
        assert told.pop() == f"False {closed}"
    with iptrec.open(path) as found:
        assert len(told) == len(list(found.packets())) == 4, noted
        assert found.running is False
    assert info(path).startswith("cut off:") is not closed


def test_beside_the_recorder_it_ends_with_it_too(lab, tmp_path):
    """`trace`, whose view has no rights to look for anything but what it inherited."""
    lab.run(["iptables-legacy-restore"], stdin=RULES["legacy"])
    child = lab.popen(
        [sys.executable, "-m", "iptrec", "trace", "icmp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    recorder.until(
        lambda: lab.run(["iptables-legacy-save", "-t", "raw"]).stdout.count("TRACE") == 2
    )
    lab.run(["ping", "-c1", "127.0.0.1"])
    assert child.stdout.readline().startswith("-- ")  # the date
    assert child.stdout.readline().startswith("#1 ")
    child.kill()
    child.stdout.read()  # until its view has closed the pipe, too
    child.communicate(timeout=60)
    recorder.until(lambda: not [*tmp_path.iterdir()], lambda: [*tmp_path.iterdir()], seconds=5)
