"""Captures in Wireshark, by the real tshark and dumpcap: packets, their rules, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest
from command import IPTREC
from recorder import packets, until
from wiresharks import FILTER, RULES, Home, nothing_left, ours, records, send, traced

pytestmark = pytest.mark.live
VERDICTS = [("ACCEPT", "9"), ("DROP", "9"), ("ACCEPT", "10"), ("ACCEPT", "10")]


@pytest.fixture
def home(labs, tmp_path):  # noqa: ARG001 - skips
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


def told(home, capture):
    """Verdict and port of each packet: the first is one that leaves, then it arrives."""
    rows = home.read(capture, "frame.comment", "udp.dstport")
    return [(re.match("([A-Z]+) by ", comment)[1], port) for comment, port in rows]


def test_it_is_an_interface(home):
    """With the link type that the others have whose packets differ."""
    assert "iptrec (netfilter trace: which rule ate my packet)" in home.asked("-D")
    assert "iptrec (Ethernet or raw IP, whichever each packet had)" in home.asked(
        "-i", "iptrec", "-L"
    )


def test_its_options_are_preferences(home):
    """Its parser reads the sentences: an option that it does not know it refuses."""
    found = set(
        re.findall(r"^#?extcap\.iptrec\.(\w+):", home.asked("-G", "currentprefs"), re.MULTILINE)
    )
    assert found == {
        "netns", "iface", "backend", "family", "drops", "conntrack", "snaplen", "output", "loglevel", "logfile",
    }  # fmt: skip


def test_a_capture(lab, home, backend, tmp_path):
    """A file that Wireshark reads as any other: verdicts as comments, interfaces by name."""
    lab.restore(None, "ipv4", RULES, backend)
    capture = tmp_path / "a.pcapng"
    with nothing_left(lab, home):
        child = home.capturing(lab, "-c", "4", "-w", capture, backend=backend, drops="no")
        send(lab, 9, 10)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 0, said
    assert told(home, capture) == VERDICTS
    assert {name for (name,) in home.read(capture, "frame.interface_name")} == {"lo"}
    assert {verdict for (verdict,) in home.read(capture, "frame.verdict.hw")} == {
        ""
    }  # see export --help
    info = subprocess.run(["capinfos", capture], capture_output=True, text=True, check=True)
    assert info.stderr in (
        "",
        'Running as user "root" and group "root". This could be dangerous.\n',
    )
    assert "Capture application: iptrec" in info.stdout


def test_packets_come_at_once(lab, home, backend):
    """Each before the next one is sent, with the text of the rule that dropped it."""
    lab.restore(None, "ipv4", RULES, backend)
    with nothing_left(lab, home):
        child = home.capturing(
            lab, "-l", "-T", "fields", "-e", "frame.comment", "-Y", 'frame.comment contains "DROP by"',
            backend=backend,
        )  # fmt: skip
        for _ in range(3):
            send(lab, 9)
            assert "--dport 9 -j DROP" in child.stdout.readline().replace("-m udp ", "")
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)


ODD = ["a b", "-x", "=", "$(id)", "é"]
UNSAYABLE = ["{a}", "b}"]


def test_odd_names_of_namespaces(lab, home):
    """As Wireshark offers them and gives them back; what its sentences cannot say is not offered."""
    program = str(home.path / ".config/wireshark/extcap/iptrec")
    # Each its own: one that is seen twice is offered once.
    make = "mkdir -p /run/netns; " + "".join(
        f"touch -- '/run/netns/{one}'; unshare --net='/run/netns/{one}' true; "
        for one in (*ODD, *UNSAYABLE)
    )
    ask = f"{program} --extcap-interface iptrec --extcap-config"
    done = lab.run(["unshare", "-m", "sh", "-c", f"mount -t tmpfs none /run; {make} {ask}"])
    offered = set(
        re.findall(r"^value \{arg=0\}\{value=(.*?)\}\{display", done.stdout, re.MULTILINE)
    )
    assert offered >= {"", *ODD}
    assert not offered & set(UNSAYABLE)


def test_of_another_namespace(lab, home, backend, tmp_path):
    """The one that captures is here, what it shows was there."""
    lab.host("web")
    lab.ip("web", "link set lo up")
    lab.restore("web", "ipv4", RULES, backend)
    capture = tmp_path / "a.pcapng"
    with nothing_left(lab, home, "web"):
        child = home.capturing(
            lab,
            "-c",
            "4",
            "-w",
            capture,
            traced_host="web",
            netns="web",
            backend=backend,
            drops="no",
        )
        assert not traced(lab)
        send(lab, 9, 10)
        send(lab, 9, 10, host="web")
        child.communicate(timeout=60)
    assert told(home, capture) == VERDICTS


def test_the_recording_is_kept(lab, home, backend, tmp_path):
    """With what iptrec says, where it was asked for; stderr would be an error to Wireshark."""
    lab.restore(None, "ipv4", RULES, backend)
    kept, log = tmp_path / "kept.db", tmp_path / "log"
    child = home.capturing(
        lab, "-c", "4", "-w", tmp_path / "a.pcapng",
        backend=backend, output=kept, loglevel="info", logfile=log, drops="no", conntrack="true", snaplen=80,
    )  # fmt: skip
    send(lab, 9, 10)
    _, said = child.communicate(timeout=60)
    assert "Error" not in said
    until(lambda: not traced(lab))
    assert [one.verdict for one in packets(kept)] == [verdict for verdict, _ in VERDICTS]
    assert log.read_text().startswith("tracing ")
    info = subprocess.run([*IPTREC, "info", kept], capture_output=True, text=True, check=True)
    assert "conntrack" in info.stdout
    assert log.stat().st_mode & 0o077 == 0


ENDS = {
    "duration": (["-a", "duration:4"], None),
    "SIGINT": ([], signal.SIGINT),
    "SIGTERM": ([], signal.SIGTERM),
    "SIGKILL": ([], signal.SIGKILL),
}


@pytest.mark.parametrize("end", ENDS)
def test_how_it_ends(lab, home, backend, tmp_path, end):
    """No packet comes; nothing is left."""
    arguments, number = ENDS[end]
    with nothing_left(lab, home):
        child = home.capturing(lab, *arguments, "-w", tmp_path / "a.pcapng", backend=backend)
        assert ours(home)
        if number is not None:
            child.send_signal(number)
        _, said = child.communicate(timeout=60)
        assert "Error" not in said


def test_dumpcap_is_killed(lab, home, tmp_path):
    """The one that reads the pipe."""
    with nothing_left(lab, home):
        child = home.capturing(lab, "-w", tmp_path / "a.pcapng")
        for pid in lab_children(child.pid, "dumpcap"):
            os.kill(pid, signal.SIGKILL)
        child.communicate(timeout=60)


def test_everybody_is_killed(lab, home, tmp_path):
    """tshark, dumpcap, and the process beside the recorder: its stdin is closed then."""
    with nothing_left(lab, home):
        child = home.capturing(lab, "-w", tmp_path / "a.pcapng")
        beside = [one for one in lab_children(child.pid, "extcap") if "--capture" in words(one)]
        assert len(beside) == 1
        for pid in [*beside, *lab_children(child.pid, "dumpcap"), child.pid]:
            os.kill(pid, signal.SIGKILL)
        child.communicate(timeout=60)


def words(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
        return file.read().decode().split("\0")


def lab_children(pid, name):
    """The children of a process that are called like this."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
        found = map(int, file.read().split())
    return [one for one in found if any(name in word for word in words(one))]


ERRORS = {
    "namespace": ({"netns": "no such"}, FILTER, "no network namespace 'no such'"),
    "filter": ({}, "tcp foo", 'filter "tcp foo": can'),
    "snaplen": ({"snaplen": "7"}, FILTER, "7 is not in the range"),
    "backend": ({"backend": "pf"}, FILTER, "--backend 'pf': must be one of"),
    "output": ({"output": "/nope/t.db"}, FILTER, "/nope/t.db"),
    "log": ({"logfile": "/nope/log"}, FILTER, "/nope/log"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_is_told(lab, home, tmp_path, case):
    """In a line that tshark prints and Wireshark shows, and tshark ends; dumpcap waits for who says nothing."""
    options, expression, message = ERRORS[case]
    with nothing_left(lab, home):
        command = home.command("-w", tmp_path / "a.pcapng", expression=expression, **options)
        child = lab.popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=home.environment
        )
        _, said = child.communicate(timeout=60)
    (line,) = [one for one in said.splitlines() if "Error by extcap pipe" in one]
    assert message in line
    assert "Traceback" not in said


def test_two_at_once(lab, home, tmp_path):
    """The second one says who has the trace, and the first one goes on."""
    with nothing_left(lab, home):
        first = home.capturing(lab, "-w", tmp_path / "a.pcapng", backend="legacy")
        command = home.command("-w", tmp_path / "b.pcapng", backend="legacy")
        second = lab.popen(command, stderr=subprocess.PIPE, text=True, env=home.environment)
        _, said = second.communicate(timeout=60)
        assert "Error by extcap pipe: iptrec: " in said
        send(lab, 9)
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=60)


def test_statistics_are_there_in_the_end(lab, home, backend, tmp_path):
    """Where it is told to end and somebody reads: what was lost is the last that it says."""
    lab.restore(None, "ipv4", RULES, backend)
    pipe, capture = tmp_path / "fifo", tmp_path / "a.pcapng"
    os.mkfifo(pipe)
    with capture.open("wb") as file, nothing_left(lab, home):
        reader = subprocess.Popen(["cat", pipe], stdout=file)
        child = lab.popen(
            [home.path / ".config/wireshark/extcap/iptrec", "--capture", "--extcap-interface", "iptrec",
             "--fifo", str(pipe), "--extcap-capture-filter", FILTER, "--backend", backend],
            stderr=subprocess.PIPE, text=True, env=home.environment,
        )  # fmt: skip
        until(lambda: records(lab))
        send(lab, 9)
        until(lambda: b"DROP by" in capture.read_bytes())
        child.terminate()
        _, said = child.communicate(timeout=60)
        assert (child.returncode, said) == (0, "")
        assert reader.wait(timeout=60) == 0
    assert b"no event was lost; closed cleanly" in capture.read_bytes()
