"""--rotate: files that follow each other, each a recording by itself; --keep deletes our own alone."""

from __future__ import annotations

import itertools
import re
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing

import pytest
from command import IPTREC
from recorder import packets, start, taken, until

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live
RULES = "*filter\n-A INPUT -p icmp -m comment --comment n{} -j ACCEPT\nCOMMIT\n"


def files(directory):
    """Those that are there, in their order."""
    return sorted(directory.glob("fr-*.db"), key=lambda one: one.stat().st_mtime_ns)


def ping(lab):
    lab.run(["ping", "-c1", "127.0.0.1"])


def closed(path):
    with Reader(path) as reader:
        return reader.facts.closed


def has(path, comment):
    with Reader(path) as reader:
        return any(comment.encode() in one.content for one in reader.snapshots())


def test_files_that_follow_each_other(lab, tmp_path, backend):
    """Every packet is in one of them; each has the rules of its time, its streams and its network."""
    lab.restore(None, "ipv4", RULES.format(0), backend)
    child = start(
        lab, "icmp", "-o", tmp_path / "fr-%H%M%S.db", "--rotate", "2s", "--backend", backend
    )
    for number in range(3):
        there = files(tmp_path)
        lab.restore(None, "ipv4", RULES.format(number), backend)
        # Until the recorder has seen them it is not sure which rules a packet met.
        until(
            lambda number=number: any(has(one, f"--comment n{number}") for one in files(tmp_path))
        )
        ping(lab)
        # Rules that change while a file begins are not sure; it has begun when the one before it has ended.
        until(lambda there=there: all(map(closed, there)))
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 0, said
    made = files(tmp_path)
    assert [one.name for one in tmp_path.iterdir() if one not in made] == []
    met = []
    for path in made:
        with Reader(path) as reader:
            assert reader.facts.closed
            assert reader.facts.stop_reason == ("SIGINT" if path == made[-1] else "rotate")
            assert {"links", "addresses", "owners", "sysctls"} <= {
                one.kind for one in reader.snapshots()
            }
        found = packets(path)
        assert [one for one in found if one.ambiguous or not one.complete] == [], path
        met += [step.comment for one in found for step in one.steps if step.comment]
    assert met == ["n0", "n0", "n1", "n1", "n2", "n2"]
    raw = lab.run(["iptables-legacy-save", "-t", "raw"]).stdout
    assert "TRACE" not in raw


def test_keep(lab, tmp_path, backend):
    """The first ones go, but for those that are not ours any more; nobody else's file does."""
    foreign = tmp_path / "fr-000000.db"
    foreign.write_text("mine")
    child = start(
        lab, "icmp", "-o", tmp_path / "fr.db", "--rotate", "300ms", "--keep", "2",
        "--backend", backend,
    )  # fmt: skip
    (first,) = [one for one in files(tmp_path) if one != foreign]
    assert re.fullmatch(r"fr-\d{8}-\d{6}(-\d+)?\.db", first.name)
    second = until(lambda: [one for one in files(tmp_path) if one not in (foreign, first)])[0]
    until(lambda: closed(first))
    first.rename(tmp_path / "kept.db")
    first.write_text("another file with its name")
    until(lambda: not second.exists())
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert foreign.read_text() == "mine"
    assert first.read_text() == "another file with its name"
    ours = [one for one in files(tmp_path) if one not in (foreign, first)]
    assert len(ours) == 2
    assert all(map(closed, [*ours, tmp_path / "kept.db"]))


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "goes"])
def test_a_reader_of_a_file_that_ends(lab, tmp_path, stays):
    """What SQLite keeps for it beside the file goes once nobody reads, or with the file."""
    child = start(lab, "icmp", "-o", tmp_path / "fr.db", "--rotate", "300ms", "--keep", "4")
    (first,) = files(tmp_path)
    with closing(sqlite3.connect(f"file:{first}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM stream").fetchone()
        until(lambda: closed(first))
        assert first.with_name(f"{first.name}-wal").exists()
        if stays:
            until(lambda: not first.exists())
            assert [*tmp_path.glob(f"{first.name}-*")] == []
    until(lambda: [*tmp_path.glob(f"{first.name}-*")] == [])
    assert first.exists() != stays
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert [*tmp_path.glob("*.db-*")] == []


def test_by_size(lab, tmp_path, backend):
    """Several files within a second have different names."""
    flood = lab.popen(["ping", "-f", "-q", "-s", "1000", "127.0.0.1"], stdout=-3)
    child = start(
        lab, "icmp", "-o", tmp_path / "fr-%S.db", "--rotate", "200k", "--snaplen", "1000",
        "--backend", backend,
    )  # fmt: skip
    until(lambda: len(files(tmp_path)) >= 4)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    flood.kill()
    flood.wait()
    for path in files(tmp_path):
        with Reader(path) as reader:
            missing = [one for one in reader.losses if one.of_events]
            assert (missing, reader.facts.closed) == ([], True)
            assert len(list(itertools.islice(Packets(reader), 11))) > 10


def test_memory_does_not_grow_with_files(lab, tmp_path, backend):
    """A file that was written is forgotten."""
    child = start(
        lab, "icmp", "-o", tmp_path / "fr.db", "--rotate", "50ms", "--keep", "2",
        "--backend", backend,
    )  # fmt: skip
    found = []
    for more in (10, 25):
        seen = set()
        until(
            lambda seen=seen, more=more: seen.update(tmp_path.glob("fr-*.db")) or len(seen) >= more,
            f"{more} files",
            120,  # a file takes long where others need the processors
        )
        found.append(taken(child.pid))
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    (before, descriptors), (after, still) = found
    assert after - before < 3000
    assert (
        still <= descriptors + 12
    )  # a file may be in the making, its evidence be collected by children


@pytest.mark.parametrize("moment", range(6))
def test_killed_in_between(lab, tmp_path, moment):
    """Whenever that is: all files open, those before the last one are closed."""
    child = start(lab, "icmp", "-o", tmp_path / "fr.db", "--rotate", "100ms")
    ping(lab)
    until(lambda: len(files(tmp_path)) > 1 + moment)
    child.kill()
    child.communicate()
    made = files(tmp_path)
    assert sum(len(packets(path)) for path in made) == 4
    until(lambda: "TRACE" not in lab.run(["iptables-legacy-save", "-t", "raw"]).stdout)
    states = [closed(path) for path in made]
    assert states.count(False) in (1, 2)


def test_a_file_that_cannot_be_made(lab, backend):
    """The file that there is goes on, and the user is told."""
    lab.run(["mkdir", "/run/small"])
    lab.run(["mount", "-t", "tmpfs", "-o", "size=16M,nr_inodes=7", "tmpfs", "/run/small"])
    child = start(lab, "icmp", "-o", "/run/small/fr.db", "--rotate", "200ms", "--backend", backend)
    line = child.stderr.readline()
    assert line.startswith("iptrec record: --rotate: cannot create /run/small/fr-")
    assert line.endswith("; this file goes on\n")
    ping(lab)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 0
    (made,) = lab.run(["ls", "/run/small"]).stdout.split()
    told = lab.run([*IPTREC, "info", f"/run/small/{made}"]).stdout
    assert "packets:     4\n" in told


# Datagrams that no socket waits for, until somebody ends it.
SEND = """
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(100_000):
    try:
        out.sendto(b"%d" % number, ("127.0.0.1", 9))
    except ConnectionRefusedError:  # of the one before
        pass
    time.sleep(0.005)
"""


def test_what_died_while_a_file_began(lab, tmp_path, backend):
    """Its events wait in the socket meanwhile: the next file has them, and its end."""
    lab.restore(None, "ipv4", "*filter\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n", backend)
    child = start(
        lab,
        "udp",
        "-o",
        tmp_path / "fr.db",
        "--rotate",
        "300ms",
        "--drops",
        "yes",
        "--backend",
        backend,
    )
    sender = lab.popen([sys.executable, "-c", SEND])
    until(lambda: len(files(tmp_path)) > 5)
    sender.kill()
    sender.wait()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    for path in files(tmp_path):
        whole = [one for one in packets(path) if one.in_ == "lo" and one.complete]
        assert {(one.verdict, one.ambiguous) for one in whole} <= {("DISCARDED", False)}, path


CHURN = """
n=0
while true; do
  $1 -I INPUT 1 -p udp --dport 9 -j ACCEPT; sleep .05
  $1 -D INPUT 1; sleep .05
done
"""
# Datagrams that a rule drops; as many as are asked for, up to a thousand a second.
SEND_DROPPED = """
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[1])):
    try:
        out.sendto(b"%d" % number, ("127.0.0.1", 2000))
    except PermissionError:  # dropped on its way out
        pass
    time.sleep(0.001)
"""
DROPPING = (
    "*filter\n-A INPUT -p udp --dport 2000 -m comment --comment dropped -j DROP\n"
    "-A INPUT -p udp --dport 2001 -j ACCEPT\nCOMMIT\n"
)


def test_rules_that_change_while_files_begin(lab, tmp_path, backend):
    """Each file has the rules that were in force at its first event: no verdict is lost, and none is wrong."""
    lab.restore(None, "ipv4", DROPPING, backend)
    child = start(
        lab, "udp", "-o", tmp_path / "fr.db", "--rotate", "40k", "--backend", backend,
    )  # fmt: skip
    changing = lab.popen(["sh", "-c", CHURN, "churn", f"iptables-{backend}"])
    lab.run([sys.executable, "-c", SEND_DROPPED, "6000"])
    changing.kill()
    changing.wait()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    found = [one for path in files(tmp_path) for one in packets(path) if one.in_ == "lo"]
    assert len(files(tmp_path)) > 3
    wrong = Counter((one.verdict, one.reason) for one in found if not decided(one))
    assert (sum(wrong.values()) <= len(files(tmp_path)), len(found)) == (True, 6000), wrong


def decided(packet):
    """Whether the rule that dropped it is known; not of one whose end is in the next file."""
    last = packet.steps[-1]
    return (packet.verdict, last.comment) == ("DROP", "dropped")


DATED = [("fr-%Y.db", r"fr-\d{4}\.db"), ("plain.db", r"plain\.db")]


@pytest.mark.parametrize(("name", "expected"), DATED)
def test_names_with_a_date(lab, tmp_path, name, expected):
    """As date(1) reads them; the default has one, so that a service can start again."""
    lab.run([*IPTREC, "record", "-q", "-o", str(tmp_path / name), "--", "true"])
    (made,) = tmp_path.iterdir()
    assert re.fullmatch(expected, made.name)
