"""`--jobs`: several processes read a recording, and tell what one does, to the byte."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard
from command import iptrec, program

from iptrec.packets import several, window
from iptrec.recording.packing import pack, unpack
from iptrec.recording.reader import Reader

SAMPLES = Path(__file__).parents[2] / "samples"
LONG = ("docker_hairpin", "docker_hairpin_nft")  # a packet each, of both backends
TWO = ("--jobs", "2")
EVENTS, PER_CHUNK = 1_000_000, 8_000
DEADLINE_S = 60


def lengthened(sample, path):
    """A million events: a packet of TCP again and again, each time with the next number of sequence."""
    shutil.copyfile(SAMPLES / f"{sample}.db", path)
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.row_factory = sqlite3.Row
        (row,) = file.execute(
            "SELECT * FROM chunk WHERE stream IN (SELECT id FROM stream WHERE kind IN ('nflog', 'nftrace'))"
        )
        raw = zstandard.ZstdDecompressor().decompress(row["data"], max_output_size=row["size"])
        count, first_ns = row["datagrams"], row["first_ns"]
        _, lengths, datagrams, _ = unpack(raw, count, first_ns, noted=bool(dict(row).get("noted")))
        syn = bytes.fromhex("a002")  # what stands behind the acknowledgement number, 0
        sequence = [at - 8 for at in range(len(datagrams)) if datagrams[at : at + 2] == syn]
        times = PER_CHUNK // count
        one = np.tile(np.frombuffer(datagrams, np.uint8), (times, 1))
        file.execute("DELETE FROM chunk WHERE stream = ?", (row["stream"],))
        for chunk in range(EVENTS // PER_CHUNK):
            begin = first_ns + chunk * PER_CHUNK * 1_000
            for at in sequence:
                numbers = np.arange(times, dtype=">u4") + chunk * times
                one[:, at : at + 4] = numbers.view(np.uint8).reshape(-1, 4)
            received_ns = begin + np.arange(times * count) * 1_000
            packed = pack(received_ns, np.tile(lengths, times), [one.tobytes()])
            new = {
                "id": 1_000 + chunk, "first_ns": begin, "last_ns": int(received_ns[-1]),
                "datagrams": times * count, "noted": 0, "size": len(packed),
                "data": zstandard.ZstdCompressor(level=-1).compress(packed),
            }  # fmt: skip
            new_row = {name: new.get(name, value) for name, value in dict(row).items()}
            marks = ", ".join(f":{name}" for name in new_row)
            file.execute(f"INSERT INTO chunk ({', '.join(new_row)}) VALUES ({marks})", new_row)
        file.commit()
    return path


@pytest.fixture(scope="module", params=LONG)
def recording(request, tmp_path_factory):
    return lengthened(request.param, tmp_path_factory.mktemp("long") / "long.db")


@pytest.fixture(scope="module")
def one_recording(tmp_path_factory):
    return lengthened(LONG[0], tmp_path_factory.mktemp("long") / "long.db")


@pytest.fixture
def alone(monkeypatch):
    """How often a recording had to be read by one process after all."""
    calls, once = [], several._alone
    monkeypatch.setattr(several, "_alone", lambda *some: calls.append(some) or once(*some))
    return calls


def test_a_million_events(recording, tmp_path, alone):
    """Every seam is what one process would have there, and so is every line."""
    for jobs in ("1", "2"):
        words = ("-o", tmp_path / jobs, "-q", "--jobs", jobs)
        assert iptrec("export", "ndjson", recording, *words).returncode == 0
    first, other = ((tmp_path / jobs).read_bytes() for jobs in ("1", "2"))
    assert len(first.splitlines()) >= EVENTS // 10
    assert other == first
    assert not alone


def test_paths_of_a_million_events(one_recording, alone):
    """The same of what is counted, with more processes."""
    found = iptrec("paths", one_recording, "--jobs", "4").stdout
    assert found == iptrec("paths", one_recording).stdout
    assert not alone


class Cut(Reader):
    """A recording in chunks of seven datagrams."""

    def chunks(self, stream=None, after=0):
        for whole in super().chunks(stream):
            ends = np.cumsum(whole.lengths, dtype=np.int64)
            for at in range(0, len(ends), 7):
                number = whole.id * 1_000 + at // 7
                if number > after:
                    yield part(whole, number, slice(at, at + 7), ends)

    def chunk_sizes(self, stream):
        return [(one.id, len(one.lengths)) for one in self.chunks(stream)]


def part(whole, number, span, ends):
    begin, end = ends[span][0] - whole.lengths[span][0], ends[span][-1]
    notes = whole.notes and whole.notes._replace(
        sent_ns=whole.notes.sent_ns[span], cpu=whole.notes.cpu[span]
    )
    return type(whole)(
        number,
        whole.stream,
        whole.received_ns[span],
        whole.lengths[span],
        whole.data[begin:end],
        notes,
    )


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.db")), ids=lambda one: one.stem)
@pytest.mark.parametrize("jobs", ["2", "5"])
def test_samples(sample, jobs, monkeypatch):
    """Where windows are so short that packets go on in the next ones, and where no seam fits."""
    monkeypatch.setattr("iptrec.recording.reader.Reader", Cut)
    monkeypatch.setattr(window, "WINDOW_EVENTS", 7)
    for name in ("_TOGETHER", "_FEWEST", "_BEFORE"):
        monkeypatch.setattr(several, name, 1)
    expected = iptrec("export", "ndjson", sample, "-o", "-", "-q")
    found = iptrec("export", "ndjson", sample, "-o", "-", "-q", "--jobs", jobs)
    assert (found.stdout, found.stderr) == (expected.stdout, expected.stderr)


def children(process):
    return [*map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())]


@pytest.fixture
def at_work(one_recording, tmp_path):
    """An export with two processes beside it, and these."""
    words = ("export", "ndjson", one_recording, "-o", tmp_path / "out", *TWO)
    with subprocess.Popen(
        [sys.executable, "-m", "iptrec", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        until = time.monotonic() + DEADLINE_S
        while len(found := children(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.001)
        yield process, found


def are_gone(processes):
    until = time.monotonic() + DEADLINE_S
    while any(Path(f"/proc/{one}").exists() for one in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def test_ctrl_c(at_work, tmp_path):
    """Ends them all, without a word, and nothing is left."""
    process, others = at_work
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said) == (130, "")
    assert are_gone(others)
    assert not list(tmp_path.iterdir())


def test_a_process_is_killed(at_work, tmp_path):
    """One line says so, and nothing is left."""
    process, others = at_work
    os.kill(others[1], signal.SIGKILL)
    _, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said) == (
        2, "iptrec: a process of --jobs was ended by SIGKILL; give fewer --jobs\n",
    )  # fmt: skip
    assert are_gone(others)
    assert not list(tmp_path.iterdir())


def test_the_parent_is_killed(at_work):
    """The others end, too."""
    process, others = at_work
    process.kill()
    assert are_gone(others)


def test_a_damaged_chunk(one_recording, tmp_path):
    """Is told as by one process."""
    damaged = tmp_path / "damaged.db"
    shutil.copyfile(one_recording, damaged)
    with contextlib.closing(sqlite3.connect(damaged)) as file:
        file.execute("UPDATE chunk SET data = x'00' WHERE id = (SELECT max(id) - 20 FROM chunk)")
        file.commit()
    told = [
        iptrec("export", "ndjson", damaged, "-o", tmp_path / "out", *jobs) for jobs in ((), TWO)
    ]
    assert told[0].returncode == told[1].returncode == 2
    assert told[0].stderr == told[1].stderr


def test_both_backends_are_read_by_one(monkeypatch):
    """The events of two streams become packets together: no process is started."""
    monkeypatch.setattr(window, "WINDOW_EVENTS", 1)
    for name in ("_TOGETHER", "_FEWEST"):
        monkeypatch.setattr(several, name, 1)
    monkeypatch.setattr(os, "fork", None)
    done = iptrec("paths", SAMPLES / "both.db", *TWO)
    assert done.returncode == 0


def test_stdin(one_recording):
    """What one process has read no other one can read again."""
    with one_recording.open("rb") as file:
        done = program("paths", "-", *TWO, stdin=file)
    assert (done.returncode, done.stdout) == (0, iptrec("paths", one_recording).stdout)


def test_no_processes():
    """One at least."""
    done = iptrec("paths", SAMPLES / "both.db", "--jobs", "0")
    assert done.returncode == 2
