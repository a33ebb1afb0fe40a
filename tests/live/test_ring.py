"""The flight recorder: the last events only, and a stop when something happens."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import time

import pytest
from command import IPTREC, iptrec
from recorder import start, until

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

EVENTS = ("nflog", "nftrace")
FLOOD = (
    "import os,socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
    "while 1:\n for _ in range(20): s.sendto(os.urandom(900),('127.0.0.1',9))\n time.sleep(0.002)"
)


def span(path):
    """Ids of the first and the last chunk of events, and the bytes of all."""
    with Reader(path) as reader:
        chunks = [(one.id, len(one.data)) for one in reader.chunks()]
    return chunks[0][0], chunks[-1][0], sum(size for _, size in chunks)


@pytest.mark.parametrize("ring", ["1M", "1s"])
def test_ring(lab, tmp_path, ring, backend):
    """A flood for much longer than the ring: the file stays small, the last events are whole."""
    lab.restore(None, "ipv4", "*filter\nCOMMIT\n", backend)  # INPUT tells what arrived
    path = tmp_path / "t.db"
    child = start(lab, "udp", "-o", path, "--ring", ring, "--snaplen", "1000", "--backend", backend)
    flood = lab.popen([sys.executable, "-c", FLOOD])
    until(lambda: path.exists() and span(path)[0] > 3 if has_chunks(path) else False)
    flood.kill()
    flood.wait()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 0
    with Reader(path) as reader:
        lost = any(one.of_events for one in reader.losses)
        packets = list(Packets(reader))
        detail = next(one.detail for one in reader.streams if one.kind in EVENTS)
    assert detail["ring_bytes" if ring == "1M" else "ring_s"] in (1 << 20, 1.0)
    assert len(packets) > 100
    if not lost or os.geteuid() == 0:  # others are granted a small receive buffer only
        assert not lost
        assert sum(one.complete for one in packets) > 0.9 * len(packets)
    if ring == "1M":
        assert path.stat().st_size < 8 << 20
    told = iptrec("info", str(path)).stdout
    assert "were kept, as asked" in told


STREAM = (
    "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
    "for at in range(1<<30):\n s.sendto(b'%d'%at,('127.0.0.1',9))\n time.sleep(0.0003)"
)


def test_the_first_ones_have_their_ends(lab, tmp_path, backend):
    """What the kernel tells of a packet goes when its events have gone, and not before."""
    lab.restore(None, "ipv4", "*filter\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n", backend)
    path = tmp_path / "t.db"
    child = start(lab, "udp", "-o", path, "--ring", "1s", "--drops", "yes", "--backend", backend)
    stream = lab.popen([sys.executable, "-c", STREAM])
    until(lambda: has_chunks(path) and span(path)[0] > 3)
    stream.kill()
    stream.wait()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    with Reader(path) as reader:
        whole = [one for one in Packets(reader) if one.in_ == "lo" and one.complete]
    assert len(whole) > 100
    assert {(one.verdict, one.ambiguous) for one in whole} == {("DISCARDED", False)}


def has_chunks(path):
    with Reader(path) as reader:
        return reader.datagrams > 0


def test_sigusr1_writes_the_ring_out(lab, tmp_path, backend):
    """A closed recording of its own beside the one that goes on."""
    path = tmp_path / "t.db"
    child = start(lab, "icmp", "-o", path, "--ring", "1h", "--backend", backend)
    lab.run(["ping", "-c2", "-i0.2", "127.0.0.1"])
    child.send_signal(signal.SIGUSR1)
    line = child.stderr.readline()
    assert "written: " in line
    lab.run(["ping", "-c2", "-i0.2", "127.0.0.1"])
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    (copy,) = tmp_path.glob("t-*.db")
    assert copy.stat().st_mode & 0o777 == 0o600
    for file, count, reason in ((copy, 8, "SIGUSR1"), (path, 16, "SIGINT")):
        with Reader(file) as reader:
            assert (reader.facts.closed, reader.facts.stop_reason) == (True, reason)
            assert len(list(Packets(reader))) == count
    assert {one.name for one in tmp_path.iterdir()} == {"t.db", copy.name}


@pytest.mark.parametrize(
    "expression", ["DROP dst port 443", "filter/INPUT/1", "DROP filter/INPUT/1 udp", "dst port 443"]
)
def test_stop_on(lab, tmp_path, expression, backend):
    """Packets that do not fit go by; the first that does ends the recording, after a while."""
    rules = "*filter\n-A INPUT -p udp -m udp --dport 443 -j DROP\nCOMMIT\n"
    lab.restore(None, "ipv4", rules, backend)
    path = tmp_path / "t.db"
    options = ("--after", "200ms", "--backend", backend)
    child = start(lab, "udp", "-o", path, "--stop-on", expression, *options)
    send = "import socket;socket.socket(2,2).sendto(b'x',('127.0.0.1',{}))"
    for _ in range(3):
        lab.run([sys.executable, "-c", send.format(80)])
    assert child.poll() is None
    lab.run([sys.executable, "-c", send.format(443)])
    _, said = child.communicate(timeout=30)
    assert child.returncode == 0
    number, verdict, by = (8, "DROP", "filter/INPUT rule 1")
    if expression == "dst port 443":  # on its way out it fits, too
        number, verdict, by = (7, "ACCEPT", r"(raw|filter)/OUTPUT policy")
    assert re.fullmatch(
        rf"stopped by #{number} {verdict} udp 127.0.0.1:\d+ > 127.0.0.1:443 by {by}:"
        rf" iptrec show {re.escape(str(path))} --packet {number}",
        said.splitlines()[-1],
    ), said
    told = json.loads(iptrec("info", "--json", str(path)).stdout)
    assert told["recording"]["stop_reason"] == "stop-on"
    assert told["verdicts"]["DROP"] == 1
    assert told["packets"] == 8


BAD = {
    "--stop-on": ["", "DORP", "a/b/c/d", "no such filter"],
    "--ring": ["much", "5x", "-1s"],
    "--after": ["soon"],
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in BAD.items() for v in values])
def test_refusals(lab, tmp_path, option, value):
    """One line, before anything is touched."""
    done = lab.run(
        [*IPTREC, "record", "-o", str(tmp_path / "t.db"), f"{option}={value}"], check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert list(tmp_path.iterdir()) == []


CHANGES = {
    "legacy": (
        ["iptables-legacy-restore", "--noflush"],
        "*filter\n-F INPUT\n-A INPUT -p udp -m comment --comment n{}\nCOMMIT\n",
    ),
    "nft": (
        ["nft", "-f", "-"],
        'flush chain inet fw in\nadd rule inet fw in meta l4proto udp counter comment "n{}"\n',
    ),
}
COMMANDS = ("show", "why", "rules", "paths", "info", "diff")


@pytest.mark.alone
def test_rules_that_change_all_the_time(lab, tmp_path, backend):
    """Neither states nor changes of rules fill a ring; the last packets met the rules of their time."""
    path = tmp_path / "t.db"
    command, text = CHANGES[backend]
    if backend == "nft":
        chain = "chain in { type filter hook input priority 0;\n }"
        lab.run(["nft", "-f", "-"], stdin=f"table inet fw {{\n {chain}\n }}\n")
    child = start(lab, "udp", "-o", path, "--ring", "1s", "--backend", backend)
    flood = lab.popen([sys.executable, "-c", FLOOD.replace("900", "9").replace("0.002", "0.02")])
    numbers = itertools.count()

    def change_until_seen(number):
        while newest(path) < number:
            lab.run(command, stdin=text.format(next(numbers)))

    change_until_seen(3)
    first, early = states(path), chunks_of_changes(path)
    change_until_seen(newest(path) + 10)
    held = states(path)
    time.sleep(1)  # for packets of rules that do not change any more
    flood.kill()
    flood.wait()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert held <= first + 8 * 5  # a second's worth, each of up to five parts
    with Reader(path) as reader:
        packets = [one for one in Packets(reader) if one.in_ == "lo"]
    assert bool(early) == (backend == "nft")
    assert not early & chunks_of_changes(path)
    met = [step.comment for step in packets[-1].steps if step.comment]
    assert met == [f"n{newest(path)}"]
    for name in COMMANDS:
        done = iptrec(name, path)
        assert (done.returncode in (0, 1), "Traceback" in done.stderr) == (True, False), done.stderr


def states(path):
    """How many states of rulesets are in the file."""
    with Reader(path) as reader:
        return sum(one.after_ns is not None for one in reader.snapshots())


def chunks_of_changes(path):
    """The chunks in which nf_tables tells of changes."""
    with Reader(path) as reader:
        streams = {one.id for one in reader.streams if one.kind == "nftables"}
        return {one.id for one in reader.chunks() if one.stream in streams}


def newest(path):
    """The number that the rule has in the last state that was recorded."""
    with Reader(path) as reader:
        contents = b"".join(one.content for one in reader.snapshots("iptables-save", "nft"))
    found = re.findall(rb"\bn(\d+)\b", contents)
    return max(map(int, found), default=-1)
