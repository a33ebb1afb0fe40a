"""Programs that come and go while it is recorded: their packets are theirs, and nobody else's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import recorder
from rights import ROOT, since

from iptrec.recording.reader import Reader

pytestmark = [pytest.mark.live, ROOT, since(6, 4, "programs of netfilter")]

CLIENTS = 300
HERE, THERE = ("10.0.1.1", "fd00:1::1"), ("10.0.1.2", "fd00:1::2")
ECHO = """
import os, select, socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
doors = {}
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        one = socket.socket(family, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, 7000))
        doors[one] = kind
        if kind == socket.SOCK_STREAM:
            one.listen(500)
print(os.getpid(), flush=True)
talks = {}
while True:
    for one in select.select([*doors, *talks], [], [])[0]:
        if one in talks:
            data = one.recv(1 << 16)
            if data[:4] == b"bulk":
                one.setblocking(True)
                one.sendall(bytes(int(data[4:])))
            elif data:
                one.sendall(data)
            else:
                del talks[one]
                one.close()
        elif doors[one] == socket.SOCK_STREAM:
            talks[one.accept()[0]] = None
        else:
            data, who = one.recvfrom(999)
            one.sendto(data, who)
"""
# As many clients as are asked for, a few at a time: each has a name, a user and a control group of its own, and
# says who it was and which ends its sockets had.
ASK = """
import json, os, socket, sys
first, count, at_a_time, groups, addresses, name, bulk = json.loads(sys.argv[1])

def ask(number, out):
    if groups:
        open(groups[number % len(groups)] + "/cgroup.procs", "w").write("0")
    comm, uid = f"{name}-{number}", 1000 + number % 7
    os.setuid(uid)  # whoever does so may write its comm no more
    import ctypes
    ctypes.CDLL(None).prctl(15, comm.encode(), 0, 0, 0)
    address = addresses[number % len(addresses)]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    told = {"pid": os.getpid(), "comm": comm, "uid": uid, "ends": [],
            "group": groups and groups[number % len(groups)]}
    def meet(one):
        told["ends"].append([*one.getsockname()[:2], *one.getpeername()[:2]])
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(60)
        one.connect((address, 7000))
        meet(one)
        if bulk:
            one.send(b"bulk%d" % bulk)
            left = bulk
            while left:
                left -= len(one.recv(1 << 16))
        else:
            one.send(b"x" * 100)
            one.recv(100)
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.settimeout(5)
        connected = number % 3
        if connected:
            one.connect((address, 7000))
        for again in range(3):
            one.send(b"y") if connected else one.sendto(b"y", (address, 7000))
            try:
                one.recv(9)
                break
            except TimeoutError:
                pass
        if not connected:
            one.connect((address, 7000))  # so that it knows its own address
        told["ends"].append([*one.getsockname()[:2], *one.getpeername()[:2]])
    os.write(out, (json.dumps(told) + "\\n").encode())

running = set()
for number in range(first, first + count):
    if len(running) >= at_a_time:
        running.discard(os.wait()[0])
    if (pid := os.fork()) == 0:
        status = 1
        try:
            ask(number, 1)
            status = 0
        finally:
            os._exit(status)
    running.add(pid)
failed = 0
for _ in running:
    failed += os.wait()[1] != 0
sys.exit(failed)
"""
BUSY = """
import os, sys
open("/proc/self/comm", "w").write("busy")
os.sched_setaffinity(0, [int(sys.argv[1])])
os.nice(10)
print("ready", flush=True)
while True:
    pass
"""
FLOOD = """
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(300):
    out.sendto(b"z", ("10.0.2.2", 9))
    time.sleep(0.005)
"""
LEGACY = "*filter\n:INPUT ACCEPT\n-A INPUT -p udp -j ACCEPT\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def groups():
    """Control groups that containers might have, where they can be made."""
    root = next(
        (
            one
            for one in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
            if (one / "cgroup.controllers").exists()
        ),
        None,
    )
    made = []
    if root is not None:
        with contextlib.suppress(OSError):
            for number in range(3):
                one = root / f"docker-{f'{os.getpid():x}{number}'.rjust(64, '0')}.scope"
                one.mkdir()
                made.append(one)
    yield made
    for one in made:
        recorder.until(lambda one=one: not (one / "cgroup.procs").read_text(), "somebody is left")
        one.rmdir()


@pytest.fixture
def hosts(lab):
    """This host between two others."""
    for net in (1, 2):
        lab.host(f"h{net}")
        lab.link(f"h{net}", "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"v{net}")
        lab.ip(None, f"address add 10.0.{net}.1/24 dev v{net}")
        lab.ip(None, f"address add fd00:{net}::1/64 dev v{net}")
    lab.ip("h1", "route add default via 10.0.1.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.settle()
    return lab


@pytest.fixture
def run(hosts):
    """Starts programs in a host, which are gone in the end."""
    children = []

    def start(script, *words, host=None, ready=True):
        child = hosts.popen(
            [sys.executable, "-c", script, *map(str, words)],
            host,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        if ready:
            child.said = child.stdout.readline()
        return child

    yield start
    for one in children:
        one.kill()
        one.communicate()


def asked(child):
    """What clients have told of themselves: by the ends of a socket, who may have had it."""
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    found = {}
    for line in out.splitlines():
        told = json.loads(line)
        for protocol, ends in zip(("tcp", "udp"), told["ends"], strict=True):
            found.setdefault((protocol, *ends), []).append(told)
    return found


def ends(one):
    """Protocol and both ends of a packet, the own one first."""
    source, other = (
        (one.header[f"{end}"], one.header.get(port))
        for end, port in (("src", "sport"), ("dst", "dport"))
    )
    own, peer = (other, source) if one.in_ else (source, other)
    return (one.header["proto"], *own, *peer)


def is_right(owner, told):
    """Whether it is one of those that told so."""
    return any(
        (owner.pid, owner.comm, owner.uid) == (each["pid"], each["comm"], each["uid"])
        and (not each["group"] or owner.cgroup == f"/{Path(each['group']).name}")
        for each in told
    )


def load(lab, backend):
    for family in ("ipv4", "ipv6"):
        lab.restore(None, family, LEGACY, backend)


def order(first, count, at_a_time, groups, addresses, name, bulk=0):
    return json.dumps([first, count, at_a_time, list(map(str, groups)), addresses, name, bulk])


def test_programs_that_come_and_go(hosts, run, groups, tmp_path, backend):
    """Beside servers, what is forwarded, and who is busy on each processor."""
    load(hosts, backend)
    server = run(ECHO, "here", *HERE)
    run(ECHO, "there", *THERE, host="h1")
    for processor in os.sched_getaffinity(0):
        run(BUSY, processor)
    path = tmp_path / "t.db"
    child = recorder.start(hosts, "--backend", backend, "-o", path)
    there = run(ASK, order(0, CLIENTS, 15, groups, THERE, "one"), ready=False)
    far = run(ASK, order(0, 60, 5, [], HERE, "far"), host="h1", ready=False)
    forwarded = run(FLOOD, host="h1", ready=False)
    told = asked(there)
    asked(far)
    forwarded.wait()
    told |= asked(run(ASK, order(1000, 6, 3, groups, THERE, "bulk", 3_000_000), ready=False))
    hosts.run(["ping", "-c", "2", "-i", "0.2", THERE[0]])
    recorder.stop(child)
    count = Counter()
    for one in recorder.packets(path):
        key, owner = ends(one), one.owner
        if key in told:
            right = owner and is_right(owner, told[key])
            count["none" if owner is None else "right" if right else "wrong"] += 1
        elif key[2] == 7000:
            assert owner is None or owner.comm == "here"
            assert owner is None or owner.pid == int(server.said)
            count["served"] += owner is not None
            count["not served"] += owner is None
        elif key[0] == "icmp" and "echo" in one.header.get("name", ""):
            count["ping"] += owner is not None and owner.comm == "ping"
        else:
            assert owner is None, one
    assert count["wrong"] == 0
    assert count["none"] <= 0.01 * count["right"]
    assert count["right"] > 10 * CLIENTS
    assert count["served"] > 0
    assert count["not served"] == 0
    assert count["ping"] == 4
    with Reader(path) as reader:
        assert reader.losses == []
