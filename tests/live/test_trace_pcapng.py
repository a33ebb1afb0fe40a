"""Packets for Wireshark while they are recorded: `trace --pcapng`, `export pcapng --follow`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess

import pytest
from command import IPTREC
from recorder import packets, processes, start, stop, until
from wiresharks import FILTER, RULES, send, traced

from iptrec.recording import at_work

pytestmark = pytest.mark.live

SECTION, INTERFACE, NAMES, STATISTICS, PACKET = 0x0A0D0D0A, 1, 4, 5, 6


def blocks(capture):
    """Type and body of each block of a capture's bytes."""
    found = []
    while capture:
        kind, size = struct.unpack_from("<II", capture)
        assert size <= len(capture)
        assert capture[size - 4 : size] == capture[4:8]
        found.append((kind, capture[8 : size - 4]))
        capture = capture[size:]
    return found


def read(stream, kind):
    """The next block of some type out of a pipe."""
    while True:
        found, size = struct.unpack("<II", stream.read(8))
        body = stream.read(size - 12)
        stream.read(4)
        if found == kind:
            return body


def known_at_once(packet):
    """Of a packet's block what is known while it is recorded: who took it is looked up in the end."""
    head, _, comment = packet.partition(b" by filter/")
    return head[4:-4], re.sub(rb"\nend: .*", b"", comment).rstrip(b"\0")


def tracing(lab, backend, *more, stdout=subprocess.PIPE):
    """A `trace --pcapng` that is ready."""
    command = [*IPTREC, "trace", "--backend", backend, *map(str, more), FILTER]
    child = lab.popen(command, stdout=stdout, stderr=subprocess.PIPE)
    assert child.stderr.readline().startswith(b"tracing ")
    return child


def interrupt(child):
    """What it said after it was ready."""
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    return said.decode()


def test_it_is_what_an_export_has(lab, backend, tmp_path):
    """Interfaces as they are met, packets in order with their comments, in the end statistics; nothing else."""
    lab.restore(None, "ipv4", RULES, backend)
    kept, live = tmp_path / "t.db", tmp_path / "live.pcapng"
    # What became of packets behind the rules is known by lists that are made in the end.
    child = tracing(lab, backend, "--pcapng", live, "-o", kept, "--drops", "no")
    send(lab, 9, 10, 9, 10)
    until(lambda: [kind for kind, _ in blocks(live.read_bytes())].count(PACKET) == 8)
    assert interrupt(child) == "traced 8 packets: 6 ACCEPT, 2 DROP (none lost)\n"
    found = blocks(live.read_bytes())
    done = subprocess.run(
        [*IPTREC, "export", "pcapng", kept, "-o", "-"], capture_output=True, check=True
    )
    exported = blocks(done.stdout)
    # One interface is there from the beginning, for what is lost.
    lossy = next(body for kind, body in found if kind == INTERFACE)
    assert (b"nflog:0" if backend == "legacy" else b"nftrace") in lossy
    ours = [known_at_once(body) for kind, body in found if kind == PACKET]
    assert ours == [known_at_once(body) for kind, body in exported if kind == PACKET]
    assert [struct.unpack_from("<I", body)[0] - 1 for kind, body in found if kind == PACKET] == [
        struct.unpack_from("<I", body)[0] for kind, body in exported if kind == PACKET
    ]
    kinds = [kind for kind, _ in found]
    assert kinds[0] == SECTION
    assert set(kinds[-kinds.count(INTERFACE) :]) == {STATISTICS}
    assert b"no event was lost; closed cleanly" in found[-kinds.count(INTERFACE)][1]
    info = subprocess.run(["capinfos", live], capture_output=True, check=True)
    assert info.stderr == b""
    assert b"Number of packets:   8\n" in info.stdout
    assert len(packets(kept)) == 8


def test_a_packet_is_there_at_once(lab, backend):
    """Not when a buffer is full: each is read before the next one is sent."""
    lab.restore(None, "ipv4", RULES, backend)
    child = tracing(lab, backend, "--pcapng", "-")
    for _ in range(3):
        send(lab, 9)
        assert b"ACCEPT by " in read(child.stdout, PACKET)
        dropped = read(child.stdout, PACKET)
        assert b"DROP by filter/INPUT rule 1\n" in dropped
        assert dropped[20:].startswith((b"\0" * 12 + b"\x08\0E", b"E"))
    interrupt(child)


@pytest.mark.parametrize("packet", [False, True], ids=["idle", "busy"])
def test_who_reads_no_more_ends_it(lab, backend, packet):
    """Whether a packet comes or not; rules, processes and files are gone."""
    lab.restore(None, "ipv4", RULES, backend)
    before = processes(lab)
    child = tracing(lab, backend, "--pcapng", "-")
    assert traced(lab)
    read(child.stdout, SECTION)
    child.stdout.close()
    if packet:
        send(lab, 9)
    child.wait(timeout=60)
    assert b"Traceback" not in child.stderr.read()
    assert not traced(lab)
    until(lambda: processes(lab) == before)


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_who_reads_no_text_ends_it(lab, backend, form):
    """The same of text: under ssh nothing else tells that it was broken off."""
    child = tracing(lab, backend, *form)
    child.stdout.close()
    child.wait(timeout=60)
    assert not traced(lab)


def test_a_reader_that_is_killed(lab, backend, tmp_path):
    """Through a named pipe, as Wireshark's extcap has it."""
    pipe = tmp_path / "fifo"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    child = tracing(lab, backend, "--pcapng", pipe)
    read(reader.stdout, SECTION)
    reader.kill()
    reader.communicate()
    child.wait(timeout=60)
    assert not traced(lab)


def test_beside_a_recorder(lab, backend, tmp_path):
    """`export pcapng --follow` writes what `record` records; closing it leaves the recorder alone."""
    lab.restore(None, "ipv4", RULES, backend)
    path = tmp_path / "t.db"
    child = start(lab, "--backend", backend, "-o", path, FILTER)
    follow = [*IPTREC, "export", "pcapng", path, "-o", "-", "--follow"]
    closing, ending = (subprocess.Popen(follow, stdout=subprocess.PIPE) for _ in range(2))
    send(lab, 10)
    for one in (closing, ending):
        read(one.stdout, PACKET)
    closing.stdout.close()
    assert closing.wait(timeout=60) == 141  # as SIGPIPE has it
    send(lab, 9)
    while b"DROP by" not in read(ending.stdout, PACKET):
        pass
    stop(child)
    rest, _ = ending.communicate(timeout=60)
    assert {kind for kind, _ in blocks(rest)} == {STATISTICS}
    assert ending.returncode == 0


def test_a_recorder_knows_that_it_is_followed(lab, backend, tmp_path):
    """And is not told so any more when who did has ended, however."""
    path = tmp_path / "t.db"
    child = start(lab, "--backend", backend, "-o", path, FILTER)
    beside = os.open(f"{path}-journal", os.O_RDONLY)
    assert not at_work.is_followed(beside)
    for words in (["export", "pcapng", path, "-o", "-"], ["show", path]):
        command = [*IPTREC, *words, "--follow"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as follower:
            until(lambda: at_work.is_followed(beside))
            follower.kill()
        assert not at_work.is_followed(beside)
    os.close(beside)
    stop(child)


def test_a_reader_behind_another_one(lab, backend):
    """As ssh: it learns that nobody reads what it passes on when it writes, so it is given something."""
    child = tracing(lab, backend, "--pcapng", "-")
    with subprocess.Popen(["cat"], stdin=child.stdout, stdout=subprocess.PIPE) as passing:
        child.stdout.close()
        read(passing.stdout, SECTION)
        passing.stdout.close()
        child.wait(timeout=60)
    assert not traced(lab)


def test_a_full_disk(lab, backend):
    """It is named; the rules are gone."""
    words = ["trace", "--backend", backend, "--pcapng", "/dev/full", FILTER]
    done = lab.run([*IPTREC, *words], check=False)
    assert done.returncode == 2
    assert "iptrec: cannot write to /dev/full: No space left on device\n" in done.stderr
    assert not traced(lab)


def test_a_selection(lab, backend, tmp_path):
    """As of the text: only what was dropped."""
    lab.restore(None, "ipv4", RULES, backend)
    live = tmp_path / "live.pcapng"
    child = tracing(lab, backend, "--verdict", "DROP", "--pcapng", live)
    send(lab, 10, 9)
    until(lambda: PACKET in [kind for kind, _ in blocks(live.read_bytes())])
    assert interrupt(child) == "traced 1 packet: 1 DROP (none lost)\n"


def test_what_makes_no_sense(lab, tmp_path):
    """One line each, before anything is traced; what is there stays."""
    there = tmp_path / "there.pcapng"
    there.write_bytes(b"mine")
    same = tmp_path / "same"
    for words, said in (
        (["--pcapng", "-", "--json"], "--pcapng is written instead of text; leave --json and --brief out"),
        (["--pcapng", there], f"{there} exists; use --force or another --pcapng"),
        (["--pcapng", same, "-o", same], f"--pcapng {same} is the recording itself; choose another file"),
        (["--pcapng", tmp_path], f"{tmp_path} exists; use --force or another --pcapng"),
        (["--pcapng", tmp_path / "no" / "x"], f"cannot write {tmp_path}/no/x: No such file or directory"),
    ):  # fmt: skip
        done = lab.run([*IPTREC, "trace", *map(str, words), "--", "true"], check=False)
        assert (done.returncode, done.stderr) == (2, f"iptrec: {said}\n")
    assert there.read_bytes() == b"mine"
    assert not same.exists()


@pytest.mark.skipif(shutil.which("dumpcap") is None, reason="dumpcap: apt-get install tshark")
def test_wireshark_reads_it(lab, backend, tmp_path):
    """Wireshark's own dumpcap, with which tshark captures as well; after its last packet it closes the pipe."""
    lab.restore(None, "ipv4", RULES, backend)
    kept = tmp_path / "kept.pcapng"
    child = tracing(lab, backend, "--pcapng", "-")
    command = ["dumpcap", "-q", "-i", "-", "-w", str(kept), "-c", "4"]
    with subprocess.Popen(command, stdin=child.stdout, stderr=subprocess.PIPE) as dumpcap:
        child.stdout.close()
        send(lab, 9, 10)
        _, said = dumpcap.communicate(timeout=60)
    assert dumpcap.returncode == 0, said
    child.wait(timeout=60)
    assert not traced(lab)
    fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "frame.comment"]
    found = subprocess.run(
        ["tshark", "-n", "-r", kept, *fields], capture_output=True, check=True, text=True
    )
    told = [line.split("\\n")[0] for line in found.stdout.splitlines()]
    assert [line.startswith("lo\tACCEPT by ") for line in told] == [True, False, True, True]
    assert told[1] == "lo\tDROP by filter/INPUT rule 1"
    assert found.stdout.count("filter INPUT #1 -p udp -m udp --dport 9 -j DROP → DROP") == 1
