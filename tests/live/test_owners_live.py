"""Whose sockets packets are of: as the processes that hold them say it themselves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import control_groups
import pytest
import recorder
from command import IPTREC
from command import iptrec as command
from rights import ROOT, since

pytestmark = pytest.mark.live

ID = control_groups.identity()
SERVE = """
import os, socket, sys
name, port, address, user, clones = sys.argv[1:6]
if sys.argv[6:]:
    open(sys.argv[6] + "/cgroup.procs", "w").write("0")
family = socket.AF_INET6 if ":" in address else socket.AF_INET
open("/proc/self/comm", "w").write(name)
os.setuid(int(user))
ear, door = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_STREAM)
for one in (ear, door):
    one.bind((address, int(port)))
door.listen()
for _ in range(int(clones)):
    if os.fork() == 0:
        break
else:
    print("ready", flush=True)
while True:
    data, who = ear.recvfrom(99)
    ear.sendto(b"told", who)
"""
ASK = """
import socket, sys
for address, port in (("127.0.0.1", 5001), ("::1", 5002), ("127.0.0.1", 5003), ("127.0.0.1", 5004)):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as one:
            one.settimeout(30)
            one.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                one.send(b"asked")
                assert one.recv(9) == b"told"
"""
ASK_ONE = """
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(30)
one.connect(("127.0.0.1", 5001))
one.send(b"asked")
assert one.recv(9) == b"told"
"""
LEGACY = "*filter\n-A INPUT -j ACCEPT\n-A OUTPUT -j ACCEPT\nCOMMIT\n"
NFT = """
table inet t {
  chain in { type filter hook input priority 0; accept; }
  chain out { type filter hook output priority 0; accept; }
}
"""


@pytest.fixture
def group():
    """A control group that a container might have, where one can be made."""
    with control_groups.made(1) as found:
        yield next(iter(found), None)


@pytest.fixture
def served(lab):
    """Starts a server in the lab's own namespace; all are gone in the end, before their group."""
    found = []

    def serve(*words):
        child = lab.popen(
            [sys.executable, "-c", SERVE, *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        found.append(child)
        assert child.stdout.readline() == "ready\n"
        return child

    yield serve
    for one in found:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()


def load(lab, backend):
    if backend == "nft":
        lab.run(["nft", "-f", "-"], stdin=NFT)
        return
    for family in ("ipv4", "ipv6"):
        lab.restore(None, family, LEGACY)


def own_port(one):
    """The port of the end that is this host's, as the socket has it."""
    return one.header["dport" if one.in_ else "sport"]


NO_BPF = ["setpriv", "--bounding-set", "-bpf,-sys_admin", *IPTREC]


@pytest.mark.parametrize(
    "senders", [False, pytest.param(True, marks=[ROOT, since(6, 4, "senders")])]
)
def test_of_whom(lab, group, served, tmp_path, backend, senders):
    """Users, groups and names; a shared socket; one whose holder ends; one that comes later.

    The last two are told of where the kernel tells of senders: what they have sent.
    """
    lab.run(["ip", "link", "set", "lo", "up"])
    load(lab, backend)
    one = served("a b\x1b", 5001, "127.0.0.1", 1234, 0, *([group] if group else []))
    other = served("other", 5002, "::", 0, 0)
    served("shared", 5003, "127.0.0.1", 0, 1)
    path = tmp_path / "t.db"
    child = recorder.start(
        lab,
        "--backend",
        backend,
        "-o",
        path,
        "udp or tcp",
        notes=True,
        before=IPTREC if senders else NO_BPF,
    )
    late = served("late", 5004, "127.0.0.1", 0, 0)
    lab.run([sys.executable, "-c", ASK])
    os.killpg(other.pid, signal.SIGKILL)
    other.wait()
    recorder.stop(child)
    found = {}
    for each in recorder.packets(path):
        if "RST" not in each.header.get("flags", ()):
            found.setdefault(own_port(each), set()).add(each.owner)
    (first,) = found[5001]
    assert (first.uid, first.pid, first.comm) == (1234, one.pid, "a b\x1b")
    if group is not None:
        assert (first.cgroup, first.container) == (f"/{group.name}", ID)
    (third,) = found[5003]
    assert (third.uid, third.pid, third.comm) == (0, None, "shared")
    if senders:
        for port, name, process in ((5002, "other", other), (5004, "late", late)):
            told = found[port] - {None}
            assert {(one.uid, one.pid, one.comm) for one in told} == {(0, process.pid, name)}
    else:
        # It was closed within the second that its end may be told late.
        assert found[5002] == {None}
        assert all(owners == {None} for port, owners in found.items() if port not in (5001, 5003))
    said = command("info", path).stdout
    assert ("senders:     recorded\n" in said) == senders
    assert (
        "senders:     not recorded (the kernel refuses the program: Operation not" in said
    ) != senders
    selected = command("show", path, "--comm", "shared", "--json").stdout.splitlines()
    owners = [json.loads(line)["owner"] for line in selected]
    assert len(owners) == sum(each.owner == third for each in recorder.packets(path))
    assert {each["comm"] for each in owners} == {"shared"}
    for option, asked in (("--uid", "1234"), ("--container", ID[:12])) if group is not None else ():
        selected = command("show", path, option, asked).stdout
        assert rf"UID=1234 COMM=a\x20b\x1b PID={one.pid} CGROUP=/docker-{ID}.scope" in selected


def test_in_a_namespace_of_a_user(tmp_path):
    """Processes of his own are told."""
    if subprocess.run(["unshare", "-Urn", "true"], check=False).returncode:
        pytest.skip("no user namespaces")
    for name, text in (("serve", SERVE), ("ask", ASK_ONE)):
        (tmp_path / name).write_text(text)
    record = " ".join(map(str, [*IPTREC, "record", "--drops", "no", "-o", tmp_path / "t.db"]))
    python = sys.executable
    script = f"""
    ip link set lo up; iptables-legacy -A INPUT -j ACCEPT; mkfifo {tmp_path}/said
    {python} {tmp_path}/serve own 5001 127.0.0.1 0 0 > {tmp_path}/said & read ready < {tmp_path}/said
    {record} udp -- {python} {tmp_path}/ask
    status=$?; kill $!; echo $!; exit $status
    """
    done = subprocess.run(
        ["unshare", "-Urn", "sh", "-c", script], capture_output=True, text=True, check=False,
        env={"XTABLES_LOCKFILE": str(tmp_path / "lock"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    owners = {one.owner for one in recorder.packets(tmp_path / "t.db") if own_port(one) == 5001}
    (only,) = owners
    assert (only.uid, only.comm, only.pid) == (0, "own", int(done.stdout))
