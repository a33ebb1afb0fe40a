"""A recorder at work for hours: what it takes of memory, descriptors, disk and processor, minute by minute.

usage: python bench/soak.py [--minutes N] [--rate PACKETS/S] [--backend legacy|nft] [--ring SIZE|TIME]
                            [--swap SECONDS] [--idle MINUTES] [--output FILE]

A flood over loopback through a dozen rules; ``--swap`` replaces the rules every so many seconds; ``--idle``
goes on for some minutes without packets. Each row tells of the minute before it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from idle import cpu_of
from record import RULES

from iptrec.demo.lab import Lab

LOOK_S = 10  # how often new chunks are counted: less than what the ring holds
HEAD = (
    "minute", "events", "lost", "rss kB", "anon kB", "file kB", "shmem kB", "heap kB", "fds", "threads",
    "db bytes", "wal bytes", "cpu",
)  # fmt: skip
# Twenty batches a second: the sender wakes seldom, and the recorder fetches hundreds of events at once.
SENDER = """\
import os, socket, sys, time
noise = os.urandom(1 << 20)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("127.0.0.1", 9))
rate = int(sys.argv[1])
begun, sent = time.monotonic(), 0
while True:
    due = int((time.monotonic() - begun) * rate)
    for number in range(sent, due):
        at = number * 191 % 1000003
        out.send(noise[at : at + 100])
    sent = due
    time.sleep(0.05)
"""


@dataclass(slots=True)
class Counted:
    """Events and losses that were seen in the file, which forgets the old ones."""

    path: Path
    events: int = 0
    lost: int = 0
    chunk: int = 0  # the last ones counted
    loss: int = 0

    def look(self) -> None:
        """Add what is new."""
        with contextlib.closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as file:
            for last, size in file.execute(
                "SELECT chunk.id, datagrams FROM chunk JOIN stream ON stream.id = stream"
                " WHERE kind IN ('nflog', 'nftrace') AND chunk.id > ?",
                (self.chunk,),
            ):
                self.chunk = max(self.chunk, last)
                self.events += size
            for last, size in file.execute(
                "SELECT rowid, events FROM loss WHERE rowid > ?", (self.loss,)
            ):
                self.loss = max(self.loss, last)
                self.lost += size or 0


def memory(pid: int) -> list[int]:
    """Resident, and its share that is anonymous, of files, shared; and of the heap (kB)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    names = ("VmRSS", "RssAnon", "RssFile", "RssShmem")
    maps = Path(f"/proc/{pid}/smaps").read_text().partition("[heap]")[2]
    heap = maps.partition("\nRss:")[2].split(maxsplit=1)
    return [*(int(values[name].split()[0]) for name in names), int(heap[0]) if heap else 0]


def size(path: str) -> int:
    """A file's, 0 where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return Path(path).stat().st_size
    return 0


def row(minute: int, pid: int, counted: Counted, share: float) -> list[str]:
    """One line of the table."""
    of = Path(f"/proc/{pid}")
    numbers = [
        minute, counted.events, counted.lost, *memory(pid),
        len(list((of / "fd").iterdir())), len(list((of / "task").iterdir())),
        size(str(counted.path)), size(f"{counted.path}-wal"),
    ]  # fmt: skip
    return [*(f"{one:,}" for one in numbers), f"{share:.2%}"]


def print_row(cells: list[str] | tuple[str, ...]) -> None:
    """At once: somebody may be waiting for it."""
    print("| " + " | ".join(cell.rjust(9) for cell in cells) + " |", flush=True)


def wait(until: float, lab: Lab, options: argparse.Namespace, counted: Counted) -> None:
    """Count, and swap the rules, until it is time."""
    for number in itertools.count():
        rules = RULES.replace("--set-mark 1", f"--set-mark {number % 2 + 1}")
        if options.swap:
            lab.restore(None, "ipv4", rules, options.backend)
        counted.look()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, options.swap or LOOK_S))


def soak(lab: Lab, options: argparse.Namespace, output: Path) -> None:
    """Print the table."""
    command = [sys.executable, "-m", "iptrec", "record", "udp", "--family", "ipv4", "--force"]
    command += ["--backend", options.backend, "--ring", options.ring, "-o", str(output)]
    recorder = lab.popen(command, stderr=subprocess.PIPE, text=True)
    recorder.stderr.readline()
    sender = lab.popen([sys.executable, "-c", SENDER, str(options.rate)])
    print_row(HEAD)
    counted = Counted(output)
    begun, cpu = time.monotonic(), cpu_of(recorder.pid)
    for minute in range(1, options.minutes + options.idle + 1):
        wait(begun + 60 * minute, lab, options, counted)
        before, cpu = cpu, cpu_of(recorder.pid)
        print_row(row(minute, recorder.pid, counted, (cpu - before) / 60))
        if minute == options.minutes:
            sender.terminate()
    recorder.terminate()
    print(recorder.communicate()[1].splitlines()[-1])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--backend", choices=("legacy", "nft"), default="legacy")
    parser.add_argument("--ring", default="64M")
    parser.add_argument("--swap", type=float, default=0)
    parser.add_argument("--idle", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES, options.backend)
        soak(lab, options, (options.output or Path(directory, "bench.db")).absolute())


if __name__ == "__main__":
    main()
