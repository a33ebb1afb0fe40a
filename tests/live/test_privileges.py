"""What runs as root runs no code of strangers, and keeps no right that it does not need."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dpkt
import pytest
import recorder
from recorder import proc, until

from iptrec.kernel import privileges, process
from iptrec.recording.reader import Reader

pytestmark = [pytest.mark.live, pytest.mark.cold]

ROOT = os.geteuid() == 0
ISOLATED = tuple(process.iptrec())
HIDDEN = 'mount --bind /dev/null $(readlink -f /usr/sbin/iptables-nft-save) && exec "$@"'
ALONE = ("unshare", "-m", "sh", "-c", HIDDEN, "sh")  # a shell that sees no iptables-nft
PROGRAMS = (
    *(f"{one}{kind}{suffix}" for one in ("iptables", "ip6tables") for kind in ("", "-legacy", "-nft")
      for suffix in ("", "-save", "-restore")),
    "nft", "modprobe", "ip", "sh", "env", "nsenter", "unshare", "mount", "tee", "kill", "python3", "gcc",
    "cc", "ld", "objdump", "ldconfig", "true", "id", "sysctl", "conntrack", "ipset", "tcpdump",
)  # fmt: skip
MODULES = (
    *sorted(sys.stdlib_module_names), "sitecustomize", "usercustomize",
    "iptrec", "numpy", "backports", "typer", "click", "rich", "dpkt", "pyroute2", "sqlite_utils",
    "pluggy", "shellingham", "pygments", "colorama",
)  # fmt: skip
COMMANDS = {
    "record": ("record", "-o", "@t.db", "--backend", "legacy", "icmp", "--", "/bin/true"),
    "record, nf_tables": ("record", "-o", "@t.db", "--backend", "nft", "icmp", "--", "/bin/true"),
    "record, both": ("record", "-o", "@t.db", "--backend", "both", "icmp", "--", "/bin/true"),
    "record, auto": ("record", "-o", "@t.db", "--duration", "100ms"),
    "--stop-on": ("record", "-o", "@t.db", "--stop-on", "DROP", "--duration", "1s"),
    "--metrics": ("record", "-o", "@t.db", "--metrics", "@t.prom", "--duration", "1s"),
    "trace": ("trace", "icmp", "--", "/bin/ping", "-c1", "127.0.0.1"),
    "demo": ("demo",),
    "doctor": ("doctor",),
    "cleanup": ("cleanup",),  # of the namespaces that it sees: those of this lab
}


@pytest.fixture(scope="module")
def poison(tmp_path_factory):
    """A directory with a module and a program of every name; each leaves a mark when it is run."""
    directory = tmp_path_factory.mktemp("poison")
    for name in MODULES:
        # Works as soon as Python does: the first module that it loads may be ours.
        text = (
            "import posix\n"
            f"mark = posix.open({str(directory / 'mark')!r}, posix.O_CREAT | posix.O_APPEND | posix.O_WRONLY)\n"
            f"posix.write(mark, b'module {name}\\n')\n"
        )
        (directory / f"{name}.py").write_text(text)
    for name in PROGRAMS:
        program = directory / name
        program.write_text(f"#!/bin/sh\necho program {name} >>{directory}/mark\n")
        program.chmod(0o755)
    return directory


def marks(poison):
    with contextlib.suppress(FileNotFoundError):
        return (poison / "mark").read_text()
    return ""


def status(pid):
    """/proc/PID/status: name -> value."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def rights(pid, which):
    """One of the capability sets of a process, as numbers."""
    value = int(status(pid)[which], 16)
    return {bit for bit in range(64) if value >> bit & 1}


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def named(pid, name):
    """The child of a process that runs or is called something, as soon as it is."""

    def found():
        return [one for one in children(pid) if name in proc(one, "cmdline") + proc(one, "comm")]

    return until(found, f"no {name}")[0]


def start(lab, *arguments, env=()):
    """Start a recorder, and wait until it records."""
    return recorder.start(lab, *arguments, before=("env", *env, *ISOLATED), stdout=subprocess.PIPE)


def end(child):
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    return out, err


def test_the_poison_works(poison):
    """Python that is started as we do not start it, and a shell with such a PATH, run what is there."""
    subprocess.run([sys.executable, "-c", "import tarfile"], cwd=poison, check=False)
    subprocess.run(["env", f"PATH={poison}", "id"], check=True)
    assert "module" in marks(poison)
    assert "program id" in marks(poison)
    (poison / "mark").unlink()


@pytest.mark.parametrize("path", ["", ".", "@"], ids=["no PATH", "PATH is here", "PATH is poison"])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_run_from_where_we_are(lab, monkeypatch, poison, tmp_path, command, path):
    """Each command that starts processes, in a directory of a stranger, with a stranger's environment."""
    monkeypatch.chdir(poison)
    (poison / "mark").unlink(missing_ok=True)
    words = [one.replace("@", f"{tmp_path}/") for one in COMMANDS[command]]
    environment = (
        f"PATH={path.replace('@', str(poison))}", f"PYTHONPATH={poison}",
        "PYTHONSTARTUP=os.py", f"HOME={poison}",
    )  # fmt: skip
    seen = ("unshare", "--pid", "--fork", "--mount-proc") if command == "cleanup" else ()
    done = lab.run([*seen, "env", *environment, *ISOLATED, *words], check=False)
    assert marks(poison) == ""
    assert done.returncode == 0, done.stderr


def test_nothing_is_run_without_iptables_nft(lab, monkeypatch, poison, tmp_path):
    """The same where nft alone is there."""
    monkeypatch.chdir(poison)
    words = ("record", "-o", str(tmp_path / "t.db"), "--backend", "nft", "icmp", "--", "/bin/true")
    done = lab.run([*ALONE, "env", "PATH=", *ISOLATED, *words], check=False)
    assert marks(poison) == ""
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["legacy", "nft", "both"])
def test_the_recorder_keeps_what_it_needs(lab, tmp_path, backend):
    """While it records: the rights of its table, and no program gets it any others. Its guardian likewise."""
    child = start(lab, "-o", tmp_path / "t.db", "--backend", backend, "icmp")
    guardian = named(child.pid, "guardian")
    for pid, table in ((child.pid, privileges.RECORDER), (guardian, privileges.GUARDIAN)):
        for which in ("CapEff", "CapPrm", "CapBnd"):
            assert rights(pid, which) == {*table}, which
        for which in ("CapInh", "CapAmb"):
            assert rights(pid, which) == set(), which
        assert status(pid)["NoNewPrivs"] == "1"
    for thread in Path(f"/proc/{child.pid}/task").iterdir():
        assert rights(f"{child.pid}/task/{thread.name}", "CapPrm") == {*privileges.RECORDER}
    end(child)


@pytest.mark.skipif(not ROOT, reason="needs root: another user's signals")
def test_nobody_but_root_stops_a_guardian(lab, users_directory):
    """One that is started again, by a recorder that writes as the user behind sudo, is root's as well."""
    env = ("SUDO_UID=1234", "SUDO_GID=1234")
    child = start(lab, "-o", users_directory / "t.db", "icmp", env=env)
    first = named(child.pid, "guardian")
    os.kill(first, signal.SIGKILL)
    assert "guardian" in child.stderr.readline()  # said when another one is there
    second = named(child.pid, "guardian")
    assert second != first
    until(lambda: {*status(second)["Uid"].split(), *status(second)["Gid"].split()} == {"0"})
    end(child)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_what_is_left_is_enough(lab, tmp_path, backend):
    """In another namespace: rules that somebody removes are put back, and everything is undone."""
    lab.host("other")
    save = [f"iptables-{backend}-save", "-t", "raw"]
    child = start(lab, "-o", tmp_path / "t.db", "--netns", "other", "--backend", backend, "icmp")
    lab.run([f"iptables-{backend}", "-t", "raw", "-F"], "other")
    until(lambda: "iptrec:" in lab.run(save, "other").stdout)
    end(child)
    assert "iptrec:" not in lab.run(save, "other").stdout
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.closed
        assert {one.how for one in reader.losses} == {"rules-gone"}


@pytest.fixture
def users_directory():
    """One of the user behind sudo, which that user can reach; without root there is no other user."""
    with tempfile.TemporaryDirectory(prefix="iptrec-test-") as directory:
        if ROOT:
            os.chown(directory, 1234, 1234)
        yield Path(directory)


@pytest.mark.parametrize("env", [(), ("SUDO_UID=1234", "SUDO_GID=1234")], ids=["", "sudo"])
def test_the_command_keeps_the_rights_of_its_caller(lab, tmp_path, users_directory, env):
    """What comes after -- runs as it would without iptrec."""
    script = "cat /proc/self/status; read _"
    output = (users_directory if env else tmp_path) / "t.db"
    child = start(lab, "-o", output, "--", "sh", "-c", script, env=env)
    mine = status(os.getpid()) if ROOT else None
    told = {}
    while "NoNewPrivs" not in told or "CapBnd" not in told:
        name, _, value = child.stdout.readline().partition(":")
        told[name] = value.strip()
    assert told["NoNewPrivs"] == "0"
    assert told["CapEff"] == told["CapBnd"]
    assert mine is None or all(
        told[name] == mine[name] for name in ("CapEff", "Uid", "Gid", "Groups")
    )
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)


def powerless(pid, uid):
    """A process has no right, none of its threads has one, and it is somebody else."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        task = f"{pid}/task/{thread.name}"
        for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert rights(task, which) == set(), which
        found = status(task)
        assert found["NoNewPrivs"] == "1"
        if ROOT:
            assert {*found["Uid"].split(), *found["Gid"].split()} == {str(uid)}
            assert found["Groups"] == ""
    assert os.getsid(pid) == pid


WHO = [((), 65534), (("SUDO_UID=1234", "SUDO_GID=1234"), 1234)]


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize(("env", "uid"), WHO, ids=["root", "sudo"])
def test_what_shows_a_trace_has_no_rights(lab, tmp_path, env, uid, backend):
    """`trace`, with the recording in a directory that its user cannot enter."""
    (tmp_path / "closed").mkdir(mode=0o700)
    output = tmp_path / "closed" / "t.db"
    child = lab.popen(
        ["env", *env, *ISOLATED, "trace", "-q", "--json", "-o", str(output), "--backend", backend, "icmp"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: output.exists() and [one for one in children(child.pid) if _shows(one)])
    ping = lab.popen(["ping", "-q", "-i0.1", "127.0.0.1"], stdout=subprocess.DEVNULL)
    assert json.loads(child.stdout.readline())["verdict"] == "ACCEPT"
    viewer = next(one for one in children(child.pid) if _shows(one))
    powerless(viewer, uid)
    held = list(_descriptors(viewer, str(output)))
    assert {name.removeprefix(str(output)) for name, _ in held} == {"", "-wal", "-shm"}
    if ROOT and not env:  # the user behind sudo owns the recording
        assert {mode for _, mode in held} == {os.O_RDONLY}
    ping.kill()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (0, "")
    assert [one.name for one in output.parent.iterdir()] == ["t.db"]


def _descriptors(pid, prefix):
    """(name, access mode) of the files that a process has open."""
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by now
            name = os.readlink(one)  # noqa: PTH115
            if name.startswith(prefix):
                told = Path(f"/proc/{pid}/fdinfo/{one.name}").read_text()
                flags = told.split("flags:")[1].split()[0]
                yield name, int(flags, 8) & os.O_ACCMODE


def _shows(pid):
    return "--held" in proc(pid, "cmdline")


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize(("env", "uid"), WHO, ids=["root", "sudo"])
def test_what_stop_on_looks_with_has_no_rights(lab, tmp_path, env, uid, backend):
    """It sees the packet all the same."""
    child = start(
        lab, "-o", tmp_path / "t.db", "--backend", backend, "--stop-on", "ACCEPT", "icmp", env=env
    )
    viewer = until(lambda: [one for one in children(child.pid) if _shows(one)])[0]
    until(lambda: rights(viewer, "CapPrm") == set())
    powerless(viewer, uid)
    lab.run(["ping", "-c1", "127.0.0.1"])
    _, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.stop_reason == "stop-on"


ESP = """
import socket, struct
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
raw.sendto(struct.pack("!II", 7, 1) + bytes(40), ("127.0.0.1", 0))
"""


def test_code_that_only_root_can_read(lab, tmp_path):
    """What shows the trace has loaded everything before it gives up the right to read it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(Path(process.__file__).parents[1], closed / "iptrec")
    shutil.copytree(Path(dpkt.__file__).parent, closed / "dpkt")
    trace = (*ISOLATED[:-1], str(closed), "trace", "--json", "ip proto 50")
    done = lab.run([*trace, "--", sys.executable, "-c", ESP])
    assert {json.loads(line)["header"].get("spi") for line in done.stdout.splitlines()} == {7}


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_killed_recorder_takes_its_viewer_along(lab, tmp_path, backend):
    """Nobody goes on following a file that nobody writes."""
    child = start(lab, "-o", tmp_path / "t.db", "--backend", backend, "--stop-on", "DROP", "icmp")
    viewer = until(lambda: [one for one in children(child.pid) if _shows(one)])[0]
    until(lambda: rights(viewer, "CapPrm") == set())
    child.kill()
    child.communicate()
    until(lambda: not _shows(viewer))


def test_a_trace_that_cannot_be_written_ends(lab, tmp_path):
    """One line, and what shows it does not wait for more."""
    flood = lab.popen(["ping", "-f", "-q", "127.0.0.1"], stdout=subprocess.DEVNULL)
    script = 'ulimit -f 2000; exec "$@"'
    trace = (
        *ISOLATED,
        "trace",
        "-q",
        "--json",
        "-o",
        str(tmp_path / "t.db"),
        "--snaplen",
        "1000",
        "icmp",
    )
    done = lab.run(["sh", "-c", script, "sh", *trace], check=False)
    assert flood.poll() is None
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "cannot write" in done.stderr


@pytest.mark.skipif(not ROOT, reason="needs root: moving a file that somebody else reads")
def test_another_file_in_its_place_is_not_read(tmp_path):
    """The file of the inherited descriptor, or none."""
    first, second = tmp_path / "a.db", tmp_path / "b.db"
    sample = Path(__file__).parents[2] / "samples" / "loopback.db"
    for one in (first, second):
        one.write_bytes(sample.read_bytes())
    with first.open("rb") as held:
        command = process.iptrec("show", "--follow", f"--held={held.fileno()}", str(second))
        done = subprocess.run(
            command, pass_fds=(held.fileno(),), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert "another file" in done.stderr
        command[-1] = str(first)
        done = subprocess.run(
            command, pass_fds=(held.fileno(),), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0
        assert done.stdout


_COUNT_THREADS = """\
import contextlib, os, sys
from iptrec.__main__ import main
with contextlib.suppress(SystemExit):
    main()
print(len(os.listdir("/proc/self/task")), "numpy" in sys.modules, file=sys.stderr)
"""


def test_no_thread_of_a_library(monkeypatch):
    """Those of numpy's linear algebra would spin, and keep rights."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    sample = Path(__file__).parents[2] / "samples" / "loopback.db"
    words = process.python("-c", _COUNT_THREADS, "show", str(sample))
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == "1 True\n"


@pytest.mark.parametrize("threads", [[], ["OPENBLAS_NUM_THREADS=7"]], ids=["", "asked for"])
def test_the_command_may_have_threads(lab, tmp_path, threads):
    """What says how many it has is what the caller gave."""
    words = ("record", "-o", str(tmp_path / "t.db"), "icmp", "--", "env")
    done = lab.run(["env", "-u", "OPENBLAS_NUM_THREADS", *threads, *ISOLATED, *words])
    assert [one for one in done.stdout.splitlines() if "_NUM_THREADS" in one] == threads


def test_a_copy_that_is_asked_for_too_early(lab, tmp_path):
    """SIGUSR1 from the moment on when our code runs: the recorder goes on."""
    child = lab.popen(
        [*ISOLATED, "record", "-o", str(tmp_path / "t.db"), "--duration", "300ms", "icmp"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: int(status(child.pid)["SigCgt"], 16) >> (signal.SIGUSR1 - 1) & 1)
    while child.poll() is None and not (tmp_path / "t.db").exists():
        child.send_signal(signal.SIGUSR1)
        time.sleep(0.005)  # not to drown it
    _, err = child.communicate(timeout=30)
    assert child.returncode == 0, err


def test_sigterm_leaves_no_temporary_file(tmp_path):
    """Of a query that never ends, say."""
    sample = Path(__file__).parents[2] / "samples" / "loopback.db"
    endless = (
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    child = subprocess.Popen(
        process.iptrec("query", "-q", str(sample), endless),
        env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: list(_descriptors(child.pid, str(tmp_path))))
    finally:
        child.terminate()
        _, err = child.communicate(timeout=30)
    assert "Traceback" not in err
    assert child.returncode in {143, 130}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [0.02 * n for n in range(2, 16)])
def test_ctrl_c_while_it_loads(tmp_path, moment):
    """Whenever it comes, there is no traceback of ours; the moment is what is tested, nothing is waited for."""
    command = (str(Path(sys.executable).parent / "iptrec"), "info", str(tmp_path))
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(moment)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert "iptrec/cli" not in err  # before that Python itself prints one


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_trace_into_head_ends(lab, backend):
    """Who looks has seen enough: nobody records any more, and nothing stays behind."""
    reading, writing = os.pipe()
    trace = [*ISOLATED, "trace", "-q", "--backend", backend, "icmp"]
    child = lab.popen(trace, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    until(lambda: recorder.guardians(lab))
    ping = lab.popen(["ping", "-i", "0.2", "127.0.0.1"], stdout=subprocess.DEVNULL)
    with os.fdopen(reading) as pipe:
        assert pipe.readline().startswith("-- 20")
    _, said = child.communicate(timeout=60)
    ping.kill()
    ping.wait()
    assert (child.returncode, said) == (0, "")
    assert recorder.guardians(lab) == []
