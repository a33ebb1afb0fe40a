"""`iptrec.record()` on the real kernel, on both backends; the caller stays what it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
from recorder import proc

import iptrec
from iptrec.kernel.undo import after_kill

pytestmark = pytest.mark.live
DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text()

HEAD = """\
import json, os, signal, sys, iptrec

def me():
    '''All that a recorder changes of its own process.'''
    status = open("/proc/self/status").read().splitlines()
    kept = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp", "Umask", "Threads", "SigIgn", "SigCgt")
    return [
        [line for line in status if line.startswith(kept)],
        [str(signal.getsignal(one)) for one in signal.valid_signals()],
        [os.readlink(f"/proc/self/ns/{one}") for one in ("net", "mnt", "user")],
        os.getcwd(), dict(os.environ), sorted(os.listdir("/proc/self/fd")), signal.set_wakeup_fd(-1),
        os.getpriority(os.PRIO_PROCESS, 0),
    ]

backend, output = sys.argv[1:3]
"""
PING = "command=['ping', '-c2', '-i0.1', '127.0.0.1']"
TRAFFIC = f"""\
before, told = me(), []
recorded = iptrec.record(
    output, filter="icmp", backend=backend, {PING}, progress=lambda far: told.append(far.events)
)
assert me() == before, (me(), before)
print(json.dumps([str(recorded.path), recorded.events, recorded.lost, recorded.packets, recorded.reason,
    recorded.exit_status, recorded.notes, told[-1]]))
"""
RULES = {
    "legacy": "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p icmp -j ACCEPT\nCOMMIT\n",
    "nft": "table ip filter { chain INPUT { type filter hook input priority 0; icmp type 8 accept; }; }",
}


@pytest.fixture(params=["legacy", "nft"])
def backend(request, lab):
    """Each backend, with rules of its own in the lab."""
    if request.param == "nft" and shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("no nft")
    lab.run(
        ["iptables-legacy-restore"] if request.param == "legacy" else ["nft", "-f", "-"],
        stdin=RULES[request.param],
    )
    return request.param


def rules(lab):
    """Those of ours."""
    saves = ("iptables-legacy-save", "iptables-nft-save")
    found = "".join(lab.run([one], check=False).stdout for one in saves)
    return [line for line in found.splitlines() if "iptrec" in line]


def python(lab, program, backend, output, *arguments, check=True):
    """Run a program in the lab to its end."""
    words = [sys.executable, "-c", HEAD + program, backend, str(output), *map(str, arguments)]
    return lab.run(words, check=check)


def started(lab, program, backend, output):
    """Start one, and wait for its first line."""
    child = lab.popen(
        [sys.executable, "-c", HEAD + program, backend, str(output)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = child.stdout.readline()
    assert line == "recording\n", line + child.stderr.read()
    return child


def until(condition, seconds=30):
    """Wait for what has to become true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_a_recording_and_an_unchanged_caller(lab, backend, tmp_path):
    """What came of it, in numbers; rights, signals, namespace, directory, descriptors are as before."""
    output = tmp_path / "t.db"
    done = python(lab, TRAFFIC, backend, output)
    path, events, lost, packets, reason, status, _, told = json.loads(done.stdout.splitlines()[-1])
    assert (path, lost, packets, reason, status) == (str(output), 0, None, "command", 0)
    assert rules(lab) == []
    with iptrec.open(output) as recording:
        summary = recording.summary()
        assert (summary.events, summary.complete, told) == (events, True, events)
        assert recording.facts.filter == "icmp"
        assert recording.facts.command[:2] == ("iptrec", "record")
        assert recording.facts.command[-2:] == ("-i0.1", "127.0.0.1")
        assert {
            one.verdict for one in recording.packets("icmp[0] = 8", chain=("filter", "INPUT"))
        } == {"ACCEPT"}


def test_the_example_of_the_documentation(lab, backend, tmp_path):
    """It runs as it stands there, but for the seconds and the backend that is asked for."""
    section = DOCS.partition("\n## Record")[2].partition("\n## ")[0]
    (program,) = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    program = textwrap.dedent(program).replace("duration=30", "duration=0.2")
    program = program.replace('.db",', '.db", backend=backend,')
    done = python(lab, f"os.chdir({str(tmp_path)!r})\n{program}", backend, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "0 0 duration"
    with iptrec.open(tmp_path / "ping.db") as recording:
        assert recording.summary().events == int(lines[-1]) > 0


def test_a_limit_of_packets(lab, backend, tmp_path):
    """They are counted where they are a limit; the command's exit status is not ours then."""
    program = TRAFFIC.replace("-c2", "-c50").replace(
        "backend=backend", "backend=backend, packets=4"
    )
    done = python(lab, program, backend, tmp_path / "t.db")
    *_, packets, reason, status, _, _ = json.loads(done.stdout.splitlines()[-1])
    assert (packets >= 4, reason, status) == (True, "packets", None)


LIVE = """\
def progress(far):
    if far.elapsed_ns and not told:
        told.append(far)
        print("recording", flush=True)
before, told = me(), []
try:
    iptrec.record(output, backend=backend, progress=progress)
except KeyboardInterrupt:
    assert me() == before
    print("interrupted")
"""


def test_ctrl_c_ends_the_recording_first(lab, backend, tmp_path):
    """The file is closed and nothing left on the host when KeyboardInterrupt comes out of it."""
    child = started(lab, LIVE, backend, tmp_path / "t.db")
    assert rules(lab) != []
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=60)
    assert (child.returncode, out, errors) == (0, "interrupted\n", "")
    assert rules(lab) == []
    with iptrec.open(tmp_path / "t.db") as recording:
        assert (recording.facts.closed, recording.facts.stop_reason) == (True, "SIGTERM")


def test_what_progress_raises(lab, backend, tmp_path):
    """It ends the recording, and comes out of it."""
    program = LIVE.replace('print("recording", flush=True)', 'raise ValueError("enough")')
    done = python(
        lab, program.replace("KeyboardInterrupt", "ValueError"), backend, tmp_path / "t.db"
    )
    assert done.stdout == "interrupted\n"
    assert rules(lab) == []


FULL = """\
def pipes(pid, mode):
    found = {}
    for one in os.listdir(f"/proc/{pid}/fd"):
        try:
            flags = open(f"/proc/{pid}/fdinfo/{one}").read().split()[3]
            found[os.readlink(f"/proc/{pid}/fd/{one}")] = f"/proc/{pid}/fd/{one}"
        except FileNotFoundError:
            continue
        if int(flags, 8) & os.O_ACCMODE != mode:
            found.popitem()
    return found

def fill():
    # With blanks, which JSON allows before an object.
    (child,) = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    theirs, ours = pipes(child, os.O_WRONLY), pipes("self", os.O_RDONLY)
    ((descriptor),) = [os.open(theirs[one], os.O_WRONLY | os.O_NONBLOCK) for one in theirs.keys() & ours]
    try:
        while os.write(descriptor, b" " * 4096):
            pass
    except BlockingIOError:
        os.close(descriptor)

def progress(far):
    if far.elapsed_ns and not any(one.elapsed_ns for one in told):
        fill()
        reached()
    told.append(far)

told = []
"""
SLOW = """\
def reached():
    print("recording", flush=True)
    sys.stdin.readline()
recorded = iptrec.record(output, backend=backend, duration=1.5, progress=progress)
print(recorded.reason, len(told) < 5, told[-1].events == recorded.events)
"""
RAISING = """\
def reached():
    raise ValueError("enough")
before = me()
try:
    iptrec.record(output, backend=backend, progress=progress)
except ValueError as error:
    assert me() == before
    print(error)
"""


def test_a_slow_progress(lab, backend, tmp_path):
    """The recorder waits for nobody: it ends in time, and undoes what it did, while nobody looks."""
    child = started(lab, FULL + SLOW, backend, tmp_path / "t.db")
    until(lambda: rules(lab) == [])
    with iptrec.open(tmp_path / "t.db") as recording:
        until(lambda: recording.facts.closed)
        assert recording.facts.stop_reason == "duration"
    out, errors = child.communicate("\n", timeout=60)
    assert (child.returncode, out, errors) == (0, "duration True True\n", "")


def test_a_signal_while_progress_is_slow(lab, backend, tmp_path):
    """The recorder obeys it at once."""
    program = (FULL + SLOW).replace("duration=1.5", "duration=300")
    child = started(lab, program, backend, tmp_path / "t.db")
    assert rules(lab) != []
    with suppress(ProcessLookupError):
        for recorder in proc(child.pid, f"task/{child.pid}/children").split():
            os.kill(int(recorder), signal.SIGTERM)
    until(lambda: rules(lab) == [])
    out, errors = child.communicate("\n", timeout=60)
    assert (child.returncode, out, errors) == (0, "SIGTERM True True\n", "")


def test_progress_raises_while_the_pipe_is_full(lab, backend, tmp_path):
    """Nobody waits for the other; all is undone when the error comes out."""
    done = python(lab, FULL + RAISING, backend, tmp_path / "t.db")
    assert done.stdout == "enough\n"
    assert rules(lab) == []
    with iptrec.open(tmp_path / "t.db") as recording:
        assert recording.facts.closed


def test_the_caller_is_killed(lab, backend, tmp_path):
    """Nobody records on for it: the recording ends as with a signal."""
    child = started(lab, LIVE, backend, tmp_path / "t.db")
    child.kill()
    child.communicate()

    def closed():
        with iptrec.open(tmp_path / "t.db") as recording:
            return recording.facts.closed

    until(closed)
    until(lambda: rules(lab) == [])


def test_the_recorder_is_killed(lab, backend, tmp_path):
    """The caller is told, and where to look; the guardian has undone what was done."""
    program = """\
def progress(far):
    if far.elapsed_ns:
        (child,) = open(f"/proc/self/task/{os.getpid()}/children").read().split()
        os.kill(int(child), signal.SIGKILL)
try:
    iptrec.record(output, backend=backend, progress=progress)
except iptrec.HostError as error:
    print(error)
"""
    done = python(lab, program, backend, tmp_path / "t.db")
    output = tmp_path / "t.db"
    told, _, undone = done.stdout.rstrip().rpartition("; ")
    assert told == (f"the recorder was killed by SIGKILL; {output} has what it recorded until then")
    # The guardian may be faster than who asks.
    assert undone in (after_kill.DONE, after_kill.NOTHING)
    assert rules(lab) == []
    with iptrec.open(tmp_path / "t.db") as recording:
        assert not recording.facts.closed


def test_a_process_of_another_namespace(lab, backend, tmp_path):
    """A number is a pid, and its namespace is called by the path that it is."""
    output = tmp_path / "t.db"
    program = "iptrec.record(output, netns=os.getpid(), backend=backend, command=['true'])"
    python(lab, program, backend, output)
    with iptrec.open(output) as recording:
        ((name),) = [one.name for one in recording.namespaces]
    assert re.fullmatch(r"/proc/[0-9]+/ns/net", name)


REFUSED = """\
try:
    iptrec.record(output, **eval(sys.argv[3]))
except iptrec.IptrecError as error:
    print(type(error).__name__, error)
"""
REFUSALS = {
    "netns": ({"netns": "nowhere"}, "Error"),
    "filter": ({"filter": "tcp and ("}, "UsageError"),
    "option in a filter": ({"filter": "--force"}, "UsageError filter"),
    "command": ({"command": ["no-such-command"]}, "UsageError cannot run no-such-command"),
    "filter of nothing": ({"filter": "tcp and udp"}, "UsageError filter"),
    "word too long": (
        "{'command': ['echo', 'x' * 150_000]}",
        "UsageError cannot run echo: Argument list too long",
    ),
    "backend": ({"backend": "ebpf"}, "UsageError backend='ebpf': must be one of auto"),
    "duration": ({"duration": 0}, "UsageError duration=0: expected seconds"),
    "packets": ({"packets": 0}, "UsageError packets=0: expected a number from 1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(lab, tmp_path, case):
    """The errors of the command line, as exceptions of the same kinds; no file, no rule."""
    options, expected = REFUSALS[case]
    done = python(lab, REFUSED, "legacy", tmp_path / "t.db", options)
    assert expected in done.stdout
    assert done.stderr == ""
    assert rules(lab) == []
    assert list(tmp_path.iterdir()) == []


PLACES = {
    "/proc/x.db": "RecordingError cannot create /proc/x.db: no file can be made in /proc; use another output",
    ".": "RecordingError cannot create .: it is a directory; use another output",
    "/": "RecordingError cannot create /: it is a directory; use another output",
    "no/x.db": "RecordingError cannot create no/x.db: there is no directory no; make it or use another output",
}


@pytest.mark.parametrize("place", PLACES)
def test_places_without_files(lab, place):
    """What is wrong with them is what is said."""
    done = python(lab, REFUSED, "legacy", place, {"command": ["true"]})
    assert (done.stdout, done.stderr) == (f"{PLACES[place]}\n", "")


def test_a_long_command(lab, backend, tmp_path):
    """As long as the system takes it, in all and in each word."""
    words = "['sh', '-c', 'exit $#', *['x' * 100_000] * 9]"
    program = f"recorded = iptrec.record(output, backend=backend, command={words})"
    done = python(lab, f"{program}\nprint(recorded.exit_status)", backend, tmp_path / "t.db")
    assert done.stdout == "8\n"
    with iptrec.open(tmp_path / "t.db") as recording:
        assert recording.facts.command[-8:] == ("x" * 100_000,) * 8


def test_no_command_has_no_exit_status(lab, backend, tmp_path):
    """None, as nothing ran."""
    program = "print(iptrec.record(output, backend=backend, duration=0.1).exit_status)"
    assert python(lab, program, backend, tmp_path / "t.db").stdout == "None\n"


def test_what_a_command_inherits(lab, backend, tmp_path):
    """The caller's stdin, and nothing of what we and the recorder say to each other."""
    program = (
        "iptrec.record(output, backend=backend, command=['sh', '-c', 'cat; ls /proc/self/fd'])"
    )
    words = [sys.executable, "-c", HEAD + program, backend, str(tmp_path / "t.db")]
    done = lab.run(words, stdin="hello\n")
    assert done.stdout == "hello\n0\n1\n2\n3\n"  # 3: the list itself


GONE = """\
gone = os.path.dirname(output) + "/gone"
os.mkdir(gone)
os.chdir(gone)
os.rmdir(gone)
try:
    print(iptrec.record(sys.argv[3], backend=backend, command=["true"]).reason)
except iptrec.IptrecError as error:
    print(type(error).__name__, error)
"""


def test_no_current_directory(lab, backend, tmp_path):
    """It is needed for a relative name alone, and is what is said to be wrong."""
    done = python(lab, GONE, backend, tmp_path / "t.db", "t.db")
    expected = "HostError cannot start the recorder: the current directory is gone: change to another one\n"
    assert (done.stdout, done.stderr) == (expected, "")
    assert python(lab, GONE, backend, tmp_path / "t.db", tmp_path / "t.db").stdout == "command\n"


@pytest.mark.parametrize("command", [["record", "-o", "t.db"], ["doctor"], ["demo"]])
def test_no_current_directory_for_a_command(lab, tmp_path, command):
    """One line, status 2."""
    words = [sys.executable, "-m", "iptrec", *command]
    gone = f'cd "{tmp_path}" && mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    done = lab.run(["sh", "-c", gone, "sh", *words], check=False)
    expected = "iptrec: the current directory is gone: change to another one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_a_file_is_replaced_only_by_force(lab, tmp_path):
    """As with `iptrec record`."""
    output = tmp_path / "t.db"
    output.write_text("mine")
    options = {"command": ["true"], "backend": "legacy"}
    done = python(lab, REFUSED, "legacy", output, options)
    assert done.stdout.startswith(f"RecordingError {output} exists")
    assert output.read_text() == "mine"
    python(lab, REFUSED, "legacy", output, options | {"force": True})
    with iptrec.open(output) as recording:
        assert recording.facts.closed


def test_another_namespace(lab, tmp_path):
    """It is recorded there; the command, and the caller, stay where they are."""
    lab.host("web")
    program = """\
before = me()
iptrec.record(output, netns="web", backend="legacy", command=["readlink", "/proc/self/ns/net"])
assert me() == before
print(os.readlink("/proc/self/ns/net"))
"""
    done = python(lab, program, "legacy", tmp_path / "t.db")
    command, caller = done.stdout.split()
    assert command == caller
    with iptrec.open(tmp_path / "t.db") as recording:
        assert [one.name for one in recording.namespaces] == ["web"]
