"""Rules that change while they are recorded: every state is seen, each packet judged by the one it met."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from itertools import pairwise

import pytest
from command import iptrec
from recorder import start, until

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

MANGLE = "*mangle\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n"
RAW = "*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n-A PREROUTING -s 192.0.2.7/32 -j NOTRACK\nCOMMIT\n"


@pytest.fixture
def recording(lab, tmp_path):
    """Starts `iptrec record` on a lab; stopped at the end. ``recording.stop()`` gives its stderr."""
    started = []

    class Recording:
        path = tmp_path / "t.db"

        def start(self, *arguments):
            started.append(start(lab, "-o", self.path, *arguments))
            return started[-1]

        def stop(self):
            started[0].send_signal(signal.SIGINT)
            return started[0].communicate(timeout=30)[1]

    yield Recording()
    for child in started:
        child.kill()
        child.communicate()


def told(path):
    """The snapshots of rulesets that tell a change."""
    with Reader(path) as reader:
        return [one for one in reader.snapshots() if one.after_ns is not None]


def changes(path):
    """Those that tell new rules; a slow machine may have missed others in between, and says so.

    Then it tells the other tables once more, of which nobody knows whether they were others meanwhile.
    """
    return [
        one
        for one in told(path)
        if not one.kind.endswith("-unknown") and not one.content.startswith((b"*raw", b"*filter"))
    ]


@pytest.mark.parametrize("lock", [None, "other"], ids=["inotify", "polling"])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_each_change_is_stored_with_its_interval(lab, recording, tmp_path, family, lock):
    """Whether the lock is ours to watch or another one: the state, and an interval that holds the change."""
    command = {"ipv4": "iptables-legacy", "ipv6": "ip6tables-legacy"}[family]
    lab.restore(None, family, MANGLE + "COMMIT\n")
    recording.start()
    wrapper = ["env", f"XTABLES_LOCKFILE={tmp_path / lock}"] if lock else []
    times = []
    for number in range(1, 4):
        before = time.time_ns()
        lab.run(
            [
                *wrapper,
                command,
                "-t",
                "mangle",
                "-A",
                "OUTPUT",
                "-j",
                "MARK",
                "--set-mark",
                str(number),
            ]
        )
        times.append((before, time.time_ns()))
        until(lambda number=number: len(changes(recording.path)) == number)
    recording.stop()
    for (before, after), found in zip(times, changes(recording.path), strict=True):
        assert found.after_ns < after
        assert found.time_ns > before
        assert found.time_ns - found.after_ns < 2_000_000_000
        assert found.kind == {"ipv4": "iptables-save", "ipv6": "ip6tables-save"}[family]
        assert found.content.startswith(b"*mangle\n")
        assert found.content.endswith(b"COMMIT\n")
    rules = [found.content.count(b"-A OUTPUT") for found in changes(recording.path)]
    assert rules == [1, 2, 3]


def test_who_uses_another_lock_is_not_taken_for_who_has_it(lab, recording, tmp_path):
    """Once such a change was seen, a later user of the lock does not say when one came."""
    lab.restore(None, "ipv4", MANGLE + "COMMIT\n")
    recording.start()
    other = ["env", f"XTABLES_LOCKFILE={tmp_path / 'other'}"]
    change = ["iptables-legacy", "-t", "mangle", "-A", "OUTPUT", "-p", "icmp"]
    lab.run([*other, *change])
    until(lambda: changes(recording.path))
    before = time.time_ns()
    lab.run([*other, *change])
    after = time.time_ns()
    lab.run(["ping", "-c3", "-i0.02", "127.0.0.1"])  # the recorder notes that nobody has the lock
    lab.run(["iptables-legacy", "-t", "mangle", "-S"])
    until(lambda: len(changes(recording.path)) == 2)
    recording.stop()
    found = changes(recording.path)[-1]
    assert found.after_ns < after
    assert found.time_ns > before


def test_state_that_comes_back_is_stored_once(lab, recording):
    """A, B, A, B: four changes, two contents, and no comment or counter in them."""
    lab.restore(None, "ipv4", MANGLE + "COMMIT\n")
    recording.start()
    for number in range(1, 5):
        rule = f"-A OUTPUT -p udp -j MARK --set-mark {number % 2}\n"
        lab.restore(None, "ipv4", f"{MANGLE}{rule}COMMIT\n")
        until(lambda number=number: len(changes(recording.path)) == number)
    recording.stop()
    contents = [one.content for one in changes(recording.path)]
    assert contents[:2] == contents[2:]
    assert len(set(contents)) == 2
    assert all(b"#" not in one and b"[0:0]" in one for one in contents)


def test_states_that_nobody_saw_are_not_guessed(lab, recording):
    """Two changes while the recorder is stopped: what a packet met between them is not known, and said so.

    What met the last one is known where a tap tells when that was.
    """
    send = "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9))"
    lab.restore(None, "ipv4", MANGLE + "COMMIT\n")
    child = recording.start("udp", "--family", "ipv4")
    child.send_signal(signal.SIGSTOP)
    for number in (1, 2):
        rule = f"-A OUTPUT -p udp -j MARK --set-mark {number}\n"
        lab.restore(None, "ipv4", f"{MANGLE}{rule}COMMIT\n")
        lab.run([sys.executable, "-c", send])
    child.send_signal(signal.SIGCONT)
    until(lambda: changes(recording.path))
    recording.stop()
    mangle = [
        one.kind for one in told(recording.path) if one.content.strip(b"*").startswith(b"mangle")
    ]
    assert mangle == ["iptables-unknown", "iptables-save"]
    with Reader(recording.path) as reader:
        sent = [one for one in Packets(reader) if one.in_ is None]
    between, last = sent
    assert in_doubt(between), between
    specs = [one.spec or "" for one in last.steps if one.table == "mangle"]
    assert in_doubt(last) or any("MARK --set-xmark 0x2/" in one for one in specs), last


def in_doubt(packet):
    return packet.ambiguous or "not known" in (packet.reason or "")


def test_table_loaded_meanwhile_is_seen(lab, recording):
    """A table that was not there when the recording began."""
    recording.start()
    lab.restore(None, "ipv4", "*security\n-A INPUT -p icmp -j DROP\nCOMMIT\n")
    (found,) = until(lambda: changes(recording.path))
    lab.run(["ping", "-c1", "-W1", "127.0.0.1"], check=False)
    recording.stop()
    assert found.content.startswith(b"*security\n")
    with Reader(recording.path) as reader:
        verdicts = [(one.verdict, one.steps[-1].table, one.complete) for one in Packets(reader)]
    assert ("DROP", "security", True) in verdicts


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_our_rules_are_put_back(lab, recording, family):
    """Somebody restores the raw table: a hole that is told, then events again; the user's rules stay."""
    ping = ["ping", "-c1", {"ipv4": "127.0.0.1", "ipv6": "::1"}[family]]
    save = {"ipv4": "iptables-legacy-save", "ipv6": "ip6tables-legacy-save"}[family]
    raw = RAW if family == "ipv4" else RAW.replace("192.0.2.7/32", "2001:db8::7/128")
    lab.restore(None, family, "*filter\nCOMMIT\n")  # INPUT tells what arrived
    child = recording.start("icmp or icmp6")
    lab.run(ping)
    lab.restore(None, family, raw)
    expected = rules(lab, save, without_ours=True)
    line = child.stderr.readline()
    assert f"somebody removed our {family} TRACE rules from the raw table" in line
    lab.run(ping)
    recording.stop()
    assert rules(lab, save) == expected
    with Reader(recording.path) as reader:
        (hole,) = reader.losses
        assert (hole.how, hole.events) == ("rules-gone", None)
        assert hole.last_ns - hole.first_ns < 2_000_000_000
        packets = list(Packets(reader))
    assert len(packets) == 8
    assert all(one.complete for one in packets)
    assert packets[3].time_ns < hole.last_ns < packets[4].time_ns
    shown = iptrec("show", str(recording.path))
    assert shown.stdout.count("-- not traced from ") == 1
    assert "not traced" not in iptrec("show", str(recording.path), "--packet", "5").stdout
    assert (
        shown.stdout.index("\n#5 ")
        > shown.stdout.index("-- not traced")
        > shown.stdout.index("\n#4 ")
    )
    assert "not traced for" in shown.stderr
    info = json.loads(iptrec("info", "--json", str(recording.path)).stdout)
    assert not info["complete"]


def rules(lab, save, *, without_ours=False):
    """The raw table as iptables-save prints it, without comments and counters of policies."""
    lines = lab.run([save, "-t", "raw"]).stdout.splitlines()
    lines = [line.partition(" [")[0] for line in lines if line[:1] != "#"]
    return [line for line in lines if not (without_ours and "iptrec:" in line)]


def test_what_flush_took_out_does_not_come_back_over_somebodys_rules(lab, recording):
    """With --flush: who replaces the raw table meanwhile has the last word."""
    lab.restore(None, "ipv4", RAW)
    child = recording.start("--flush", "icmp")
    other = RAW.replace("192.0.2.7", "192.0.2.8")
    lab.restore(None, "ipv4", other)
    assert "somebody removed" in child.stderr.readline()
    recording.stop()
    assert [line for line in rules(lab, "iptables-legacy-save") if line[:2] == "-A"] == [
        "-A PREROUTING -s 192.0.2.8/32 -j NOTRACK"
    ]


def test_logger_is_switched_back(lab, recording):
    """Somebody sets another logger: told, switched back, and his choice stands in the end."""
    lab.run(["ping", "-c1", "127.0.0.1"])
    child = recording.start("icmp")
    lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="NONE")
    assert "somebody switched net.netfilter.nf_log of ipv4" in child.stderr.readline()
    lab.run(["ping", "-c1", "127.0.0.1"])
    recording.stop()
    assert lab.run(["cat", "/proc/sys/net/netfilter/nf_log/2"]).stdout == "NONE\n"
    with Reader(recording.path) as reader:
        assert [loss.how for loss in reader.losses] == ["logger-switched"]
        assert len(list(Packets(reader))) == 4


SWAPS = 40
SWAPPER = f"""
import subprocess, time
for number in range(1, {SWAPS} + 1):
    begun = time.monotonic()
    rules = "-A PREROUTING -s 192.0.2.1 -j MARK --set-mark 1\\n" * (number % 5)
    rules += f"-A PREROUTING -p udp -j TTL --ttl-set {{number}}\\n"
    rules += "-A PREROUTING -p udp -m comment --comment x -j MARK --or-mark 0\\n" * (number % 3)
    text = {MANGLE!r} + rules + "COMMIT\\n"
    subprocess.run(["iptables-legacy-restore"], input=text.encode(), check=True)
    time.sleep(max(0, 0.1 - (time.monotonic() - begun)))
"""
SENDER = """
import itertools, socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("127.0.0.1", 9))
for number in itertools.count():
    out.send(b"%016d" % number)
    if number % 20 == 0:
        import time; time.sleep(0.002)
"""


def big_table(count):
    """A nat table with so many rules, as kube-proxy makes them."""
    services = range(count // 4)
    lines = [
        "*nat",
        *(f":{chain} ACCEPT" for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")),
    ]
    lines += [f":KUBE-SVC-{number:08X} -" for number in services]
    for number in services:
        chain = f"KUBE-SVC-{number:08X}"
        lines += [
            f"-A {chain} -d 10.96.{number >> 8}.{number & 255}/32 -p tcp -m tcp --dport 80 -j LOG",
            *[
                f'-A {chain} -m comment --comment "ns/svc{number} {rule}" -j RETURN'
                for rule in range(3)
            ],
        ]
    return "\n".join([*lines, "COMMIT", ""])


@pytest.mark.alone
def test_ruleset_swapped_ten_times_a_second(lab, recording):
    """40,000 rules loaded and a swap every 100 ms: each trace is right, or (1 % at most) says it is unsure.

    The truth is in the packet: each ruleset sets a TTL of its own, and the next event shows it. Where the
    machine had no time to look between two swaps, that is told, and packets of that time are unsure.
    """
    lab.restore(None, "ipv4", "*filter\n-A INPUT -p udp -j DROP\nCOMMIT\n")
    lab.restore(None, "ipv4", MANGLE + "COMMIT\n")
    lab.restore(None, "ipv4", big_table(40_000))
    recording.start("udp", "--family", "ipv4")
    sender = lab.popen([sys.executable, "-c", SENDER])
    lab.run([sys.executable, "-c", SWAPPER])
    sender.kill()
    recording.stop()
    states = told(recording.path)
    mangle = [one for one in states if one.content.strip(b"*").startswith(b"mangle")]
    missed = [  # until the next state came
        (one.after_ns, later.time_ns)
        for one, later in pairwise([*mangle, mangle[-1]])
        if one.kind == "iptables-unknown"
    ]
    assert missed or len(states) >= SWAPS - 2
    right = unsure = 0
    with Reader(recording.path) as reader:
        assert reader.losses == []
        for packet in Packets(reader):
            if packet.in_ != "lo" or packet.time_ns < states[0].time_ns:
                continue
            if packet.ambiguous or not packet.complete:  # the last ones are cut off, and say so
                unsure += not any(after <= packet.time_ns <= time for after, time in missed)
                continue
            at = [step.target for step in packet.steps].index("TTL")
            ttl = packet.steps[at + 1].header["ttl"]
            assert packet.steps[at].target_args == f"--ttl-set {ttl}", packet
            right += 1
    assert right > (10 if missed else 100) * SWAPS
    # Without a tap a packet's time is that at which it was received.
    assert unsure <= (0.05 if "IPTREC_NO_TAP" in os.environ else 0.01) * right
