"""Tables of legacy iptables are replaced, and a program in the kernel tells when: nothing else is in doubt."""

from __future__ import annotations

import signal
import sys
import time

import bpf_objects
import changing
import pytest
import recorder
from command import IPTREC
from rights import ROOT, since

import iptrec
from iptrec.recording.reader import Reader

pytestmark = [pytest.mark.live, ROOT, since(5, 17, "reading another's registers")]

TABLES = ("raw", "mangle", "filter")
RULES = "".join(f"*{one}\nCOMMIT\n" for one in TABLES)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.db"


@pytest.fixture
def recording(lab, path):
    """A recorder of the packets from a to b, which the lab forwards."""
    changing.router(lab)
    lab.restore(None, "ipv4", RULES)
    child = recorder.start(lab, "udp", "--backend", "legacy", "-o", path, notes=True)
    yield child
    child.send_signal(signal.SIGCONT)


def told(path):
    """The states of tables that were told after the beginning: table, kind, and when they came."""
    with Reader(path) as reader:
        found = [one for one in reader.snapshots() if one.after_ns is not None]
    return [
        (one.content.splitlines()[0].decode().strip("*"), one.kind, one.after_ns, one.time_ns)
        for one in found
    ]


def change(lab, *arguments, table="filter"):
    """Change a table; between which times."""
    before = time.time_ns()
    lab.run(["iptables-legacy", "-w", "-t", table, *arguments])
    return before, time.time_ns()


def send(lab, port):
    code = f"import socket; socket.socket(2, 2).sendto(b'x', ('10.0.2.2', {port}))"
    lab.run([sys.executable, "-c", code], "a")


def accept(port):
    return "FORWARD", "-p", "udp", "--dport", str(port), "-j", "ACCEPT"


def test_who_only_uses_the_lock_changes_nothing(lab, path, recording):
    """A table that was not replaced is in no doubt, however often somebody used the lock."""
    for number in range(10):
        change(lab, "-A", *accept(number))
        lab.run(["iptables-legacy", "-w", "-t", "raw", "-S"])
        lab.run(["iptables-legacy", "-w", "-t", "mangle", "-S"])
        lab.run(["iptables-legacy", "-w", "-C", "FORWARD", "-j", "DROP"], check=False)
    recorder.stop(recording)
    assert {table for table, *_ in told(path)} == {"filter"}


def test_a_change_came_when_the_table_was_replaced(lab, path, recording):
    """Not when somebody looked at last, or looked again: the recorder does nothing meanwhile."""
    recording.send_signal(signal.SIGSTOP)
    before, after = change(lab, "-A", *accept(1), table="mangle")
    send(lab, 1)
    recording.send_signal(signal.SIGCONT)
    recorder.stop(recording)
    ((table, kind, after_ns, time_ns),) = told(path)
    assert (table, kind) == ("mangle", "iptables-save")
    assert before < after_ns < time_ns < after
    with iptrec.open(path) as recorded:
        (packet,) = recorded.packets()
    assert not packet.ambiguous
    assert "--dport 1 " in next(one.spec for one in packet.steps if one.type == "rule")


def test_what_nobody_saw_lasted_until_the_next_one_came(lab, path, recording):
    """Of two changes while nobody looks, the state between is unknown: what came before and after is not."""
    change(lab, "-A", *accept(7))
    recorder.until(lambda: told(path))
    recording.send_signal(signal.SIGSTOP)
    send(lab, 7)
    for ports in ([7, 8], [7, 8, 9]):
        change(lab, "-I", *accept(ports[-1]))
        for port in ports:
            send(lab, port)
    recording.send_signal(signal.SIGCONT)
    recorder.stop(recording)
    with iptrec.open(path) as recorded:
        packets = list(recorded.packets())
    known = [one.complete and not one.ambiguous for one in packets]
    assert known == [True, False, False, True, True, True]
    assert [kind for _, kind, *_ in told(path)] == [
        "iptables-save", "iptables-unknown", "iptables-save",
    ]  # fmt: skip
    for packet in (packets[0], *packets[3:]):
        step = next(one for one in packet.steps if one.type == "rule")
        assert f"--dport {packet.header['dport']} " in step.spec


SEEN = """
import ctypes, os, subprocess, sys
from iptrec.kernel import netns
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.legacy.replacements import Replacements

with Tables("ipv4") as tables, Replacements(netns.inode()) as replacements:
    subprocess.run(["iptables-legacy", "-w", "-P", "FORWARD", "ACCEPT"], check=True)
    info, (_, entries) = tables._info("filter"), tables._entries("filter")
    number = int.from_bytes(info[-8:-4], "little")
    counters = ctypes.create_string_buffer(16 * number)
    at = ctypes.addressof(counters).to_bytes(8, "little")
    text = info[:36] + info[-8:] + info[36:-8] + info[-8:-4] + at + entries.tobytes()
    os.unshare(os.CLONE_NEWNET) if hasattr(os, "unshare") else ctypes.CDLL(None).unshare(0x40000000)
    subprocess.run(["iptables-legacy", "-w", "-A", "INPUT"], check=True)
    subprocess.run(["iptables-legacy", "-w", "-D", "INPUT", "1"], check=True)
    tables._socket.setsockopt(0, 64, text)  # IPT_SO_SET_REPLACE
    replacements.read()
    print(replacements.of("ipv4", "filter").begun, replacements.astray)
"""


def test_whose_table_it_is(lab):
    """Tables of other namespaces are not ours; who has a socket of ours may replace ours from there."""
    lab.restore(None, "ipv4", RULES)
    assert lab.run([sys.executable, "-c", SEEN]).stdout.split() == ["2", "False"]


INTERRUPTED = """
import subprocess, time
from iptrec.kernel import netns
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.legacy.replacements import Replacements

def rules(number):
    rule = f"-A FORWARD -s 192.0.2.1 -m comment --comment {number} -j DROP\\n"
    return f"*filter\\n{rule * 10000}COMMIT\\n".encode()

storm = [subprocess.Popen(["sh", "-c", "while :; do /bin/true; done"]) for _ in range(6)]
try:
    with Tables("ipv4") as tables, Replacements(netns.inode()) as replacements:
        for number in range(20):
            digest, old_ns, begun = tables.digest("filter"), 0, time.time_ns()
            child = subprocess.Popen(["iptables-legacy-restore", "-w"], stdin=subprocess.PIPE)
            child.stdin.write(rules(number))
            child.stdin.close()
            while tables.digest("filter") == digest:
                old_ns, begun = begun, time.time_ns()
            child.wait()
            replacements.read()
            history = replacements.of("ipv4", "filter")
            (one,) = history.settled(history.begun)
            print(one.time_ns > old_ns)
finally:
    for one in storm:
        one.kill()
"""


def test_what_others_give_back_meanwhile(lab):
    """Processes end all the time, and their counters go while a table is replaced: its old rules still hold."""
    lab.restore(None, "ipv4", RULES)
    assert lab.run([sys.executable, "-c", INTERRUPTED]).stdout.split() == ["True"] * 20


def test_many_rules(lab, path, recording):
    """Whose counters are many pages."""
    times = []
    for count in (1000, 2000):
        rules = "".join(
            f"-A FORWARD -s 192.0.2.1 -m comment --comment {n} -j DROP\n" for n in range(count)
        )
        before = time.time_ns()
        lab.restore(None, "ipv4", f"*filter\n{rules}COMMIT\n")
        after = time.time_ns()
        times.append((before, after))
        recorder.until(lambda: len(told(path)) == len(times))
    recorder.stop(recording)
    for (before, after), state in zip(times, told(path), strict=True):
        table, kind, after_ns, time_ns = state
        assert (table, kind) == ("filter", "iptables-save")
        assert before < after_ns < time_ns < after


def test_nothing_is_left_after_a_kill(recording):
    """The programs go with the recorder, whatever ends it."""
    held = bpf_objects.held(recording)
    assert len(held["prog_id"]) >= 3
    assert held["prog_id"] <= bpf_objects.every("prog_id")
    recording.send_signal(signal.SIGKILL)
    recording.communicate()
    bpf_objects.until_gone(held)


NO_BPF = ["setpriv", "--bounding-set", "-bpf,-sys_admin", *IPTREC]


def test_without_the_rights_for_it(lab, path):
    """All is as it was without: a table that may have been another one is in doubt, and -v says why."""
    changing.router(lab)
    lab.restore(None, "ipv4", RULES)
    child, said = recorder.started(
        lab, "-v", "udp", "--backend", "legacy", "-o", path, before=NO_BPF
    )
    child.send_signal(signal.SIGSTOP)
    before, after = change(lab, "-A", *accept(1))
    lab.run(["iptables-legacy", "-w", "-t", "raw", "-S"])
    child.send_signal(signal.SIGCONT)
    said += recorder.stop(child)
    assert "replacements of tables are not told: the kernel refuses the program" in said
    assert {table for table, *_ in told(path)} == set(TABLES)
    assert max(time_ns for *_, time_ns in told(path)) > after > before
    done = lab.run([*NO_BPF, "doctor"], check=False)
    (line,) = [one for one in done.stdout.splitlines() if "changes of rules" in one]
    assert "found by looking" in line
