"""Programs that come and go while it is recorded: their packets are theirs, and nobody else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import bpf_objects
import control_groups
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
    with control_groups.made(3) as found:
        yield found


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


def asked(child, found=None):
    """Who may have had a socket, by its ends: what clients have told of themselves, added to ``found``."""
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    found = {} if found is None else found
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
    """Whether it is one of those that told so; None where no process is told."""
    if owner is None or owner.pid is None:
        return None
    return any(
        (owner.pid, owner.comm, owner.uid) == (each["pid"], each["comm"], each["uid"])
        and (not each["group"] or owner.cgroup == f"/{Path(each['group']).name}")
        for each in told
    )


def load(lab, backend):
    for family in ("ipv4", "ipv6"):
        lab.restore(None, family, LEGACY, backend)


# Processes one after the other have one port; how long a datagram is tells whose it is.
IN_TURN = """
import json, os, socket, sys, time
there, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
for number in range(count):
    if (pid := os.fork()) == 0:
        comm = f"turn-{number}"
        open("/proc/self/comm", "w").write(comm)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(30)
            one.bind(("0.0.0.0", 6000))
            if number % 2:
                one.connect((there, 7000))
            for _ in range(3):
                one.sendto(bytes(1 + number), (there, 7000))
                one.recv(999)
        print(json.dumps([os.getpid(), comm]), flush=True)
        time.sleep(pause)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
# One that goes on, until it is ended: by UDP a few times a second, by TCP more seldom.
ON_AND_ON = """
import socket, time
open("/proc/self/comm", "w").write("on-and-on")
ear = socket.create_connection(("10.0.1.2", 7000))
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("10.0.1.2", 7000))
number = 0
print("ready", flush=True)
while True:
    out.send(bytes(99))
    out.recv(99)
    if number % 20 == 0:
        ear.send(b"x")
        ear.recv(9)
    number += 1
    time.sleep(0.02)
"""


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
    # What is lost is sent again by a timer, in whatever process that interrupts.
    lossy = (
        "*raw\n-A PREROUTING -p tcp -m statistic --mode nth --every 7 --packet 0 -j DROP\nCOMMIT\n"
    )
    hosts.restore("h1", "ipv4", lossy)
    again = run(ASK, order(2000, 30, 15, groups, THERE[:1], "again"), ready=False)
    asked(again, told)
    hosts.restore("h1", "ipv4", "*raw\nCOMMIT\n")
    forwarded.wait()
    asked(run(ASK, order(1000, 6, 3, groups, THERE, "bulk", 3_000_000), ready=False), told)
    hosts.run(["ping", "-c", "2", "-i", "0.2", THERE[0]])
    recorder.stop(child)
    count, segments, wrong = Counter(), Counter(), []
    for one in recorder.packets(path):
        key, owner = ends(one), one.owner
        if key in told and not one.in_ and key[0] == "tcp":
            segments[key, one.header["seq"], tuple(one.header["flags"])] += 1
        if key in told:
            right = is_right(owner, told[key])
            count["none" if right is None else "right"] += 1
            wrong += [(one.header, owner, told[key])] if right is False else []
        elif key[2] == 7000:
            assert owner is None or owner.comm == "here"
            assert owner is None or owner.pid == int(server.said)
            count["served"] += owner is not None
            count["not served"] += owner is None
        elif key[0] == "icmp" and "echo" in one.header.get("name", ""):
            count["ping"] += owner is not None and owner.comm == "ping"
        else:
            assert owner is None, one
    assert wrong == []
    assert count["none"] <= 0.01 * count["right"]
    assert count["right"] > 10 * CLIENTS
    assert count["served"] > 0
    assert count["not served"] == 0
    assert count["ping"] == 4
    assert max(segments.values()) > 1
    with Reader(path) as reader:
        assert reader.losses == []


def test_a_port_that_one_has_after_the_other(hosts, run, tmp_path, backend):
    """Datagrams are those of whoever had the port when."""
    load(hosts, backend)
    run(ECHO, "there", *THERE, host="h1")
    path = tmp_path / "t.db"
    child = recorder.start(hosts, "--backend", backend, "-o", path, "udp")
    turns = run(IN_TURN, THERE[0], 60, 0.1, ready=False)
    told = [json.loads(line) for line in turns.communicate(timeout=120)[0].splitlines()]
    recorder.stop(child)
    count = Counter()
    for one in recorder.packets(path):
        if ends(one)[2] == 6000:
            whose = told[one.header["length"] - 29]
            known = one.owner is not None and one.owner.pid is not None
            right = known and [one.owner.pid, one.owner.comm] == whose
            which = "right" if right else "wrong" if known else "none"
            count[which, "got" if one.in_ else "sent"] += 1
    assert sum(count.values()) == 6 * len(told)
    assert count["wrong", "got"] + count["wrong", "sent"] == 0
    assert count["right", "sent"] >= 0.2 * 3 * len(told)


def owned(path, expected=("on-and-on",)):
    """Of one of these packets how many have an owner, and how many have none."""
    count = Counter()
    for one in recorder.packets(path):
        if ends(one)[4] == 7000:
            assert one.owner is None or one.owner.comm in expected
            count[one.owner is not None] += 1
    return count[True], count[False]


def test_whoever_goes_on_is_told_of_in_each_file(hosts, run, tmp_path, backend):
    """With --rotate; though it was told of in the first one."""
    load(hosts, backend)
    run(ECHO, "there", *THERE, host="h1")
    path = tmp_path / "t.db"
    child = recorder.start(hosts, "--backend", backend, "-o", path, "--rotate", "3s")
    run(ON_AND_ON)
    recorder.until(lambda: len(list(tmp_path.glob("*.db"))) > 3, "it does not rotate")
    recorder.stop(child)
    counts = [owned(one) for one in sorted(tmp_path.glob("*.db"))]
    assert sum(some for some, _ in counts) > 100
    assert all(none <= 2 for _, none in counts)


def test_a_ring_knows_whoever_goes_on(hosts, run, tmp_path, backend):
    """What was told first is gone with the events of that time."""
    load(hosts, backend)
    run(ECHO, "there", *THERE, host="h1")
    path = tmp_path / "t.db"
    child = recorder.start(hosts, "--backend", backend, "-o", path, "--ring", "3s")
    run(ON_AND_ON)
    begun = []

    def turned():
        with Reader(path) as reader:
            stream = next(one.id for one in reader.streams if one.kind == "senders")
            first = [one.id for one in reader.chunks(stream)][:1]
        begun.extend(first if not begun else [])
        return first and first > begun

    recorder.until(turned, "it keeps all")
    recorder.stop(child)
    some, none = owned(path)
    assert some > 20
    assert none <= 0.2 * some


def test_nothing_is_left_after_a_kill(hosts, tmp_path):
    """The programs and their places at OUTPUT go with the recorder, whatever ends it."""
    child = recorder.start(hosts, "--backend", "nft", "-o", tmp_path / "t.db", notes=True)
    held = bpf_objects.held(child)
    assert len(held["link_id"]) == 2
    assert held["link_id"] <= bpf_objects.every("link_id")
    assert len(held["prog_id"]) >= 2
    assert held["prog_id"] <= bpf_objects.every("prog_id")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    bpf_objects.until_gone(held)


def test_several_at_a_time(hosts, run, tmp_path):
    """Each finds a place at OUTPUT of its own."""
    load(hosts, "nft")
    run(ECHO, "there", *THERE, host="h1")
    paths = [tmp_path / f"{number}.db" for number in range(3)]
    children = [recorder.start(hosts, "--backend", "nft", "-o", path, notes=True) for path in paths]
    told = asked(run(ASK, order(0, 4, 1, [], THERE, "one"), ready=False))
    for one in children:
        recorder.stop(one)
    for path in paths:
        found = [one for one in recorder.packets(path) if ends(one) in told and not one.in_]
        assert len(found) > 20
        assert all(is_right(one.owner, told[ends(one)]) for one in found)
