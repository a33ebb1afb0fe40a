"""How cost grows: 10^4 to 10^7 events recorded, shown, counted, exported and queried: time and memory.

usage: python bench/scale.py [OUTPUT.svg] [MOST]

Prints a row for each size and draws them: straight lines with a slope of one are what is hoped for, and
memory that stays level. With a MOST of 100000000 there are the events of 10^7 again and again (`repeated`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plot import Panel, draw
from record import RULES
from repeated import repeat
from says import until_it_says

from iptrec.demo.lab import Lab

if TYPE_CHECKING:
    import resource

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
REPEATED = 10  # times the longest one
WAYS = {  # {}: the recording and a directory
    "show --json": ("show", "--json", "{}"),
    "paths": ("paths", "{}"),
    "export parquet": ("export", "parquet", "{}", "--force", "-o", "{}/parquet"),
    "query": ("query", "{}", "SELECT verdict, count(*) FROM packets GROUP BY verdict"),
}
LONG = 1_000_000
EVENTS_OF_A_PACKET = 14  # out and in again
FLOOD = """\
import os, socket, sys
noise = os.urandom(1 << 20)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("127.0.0.1", 9))
for number in range(int(sys.argv[1])):
    at = number * 191 % 1000003
    out.send(noise[at : at + 100])
"""


@dataclass
class Cost:
    """Of one process: CPU time (s), memory at most (bytes)."""

    seconds: float
    memory: int


def cost(usage: resource.struct_rusage) -> Cost:
    """What wait4 tells."""
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def record(output: str, events: int) -> Cost:
    """Record a flood of about so many events."""
    with Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES)
        command = [sys.executable, "-m", "iptrec", "record", "udp", "--force", "-o", output]
        recorder = lab.popen(command, stderr=subprocess.PIPE)
        until_it_says(b"recording to", recorder)
        packets = str(events // EVENTS_OF_A_PACKET)
        lab.run([sys.executable, "-c", FLOOD, packets], timeout=600)
        recorder.terminate()
        _, status, usage = os.wait4(recorder.pid, 0)
        recorder.returncode = os.waitstatus_to_exitcode(status)
        recorder.stderr.close()
    return cost(usage)


def run(*arguments: str) -> Cost:
    """Run iptrec, its output thrown away."""
    child = subprocess.Popen(
        [sys.executable, "-m", "iptrec", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"iptrec {' '.join(arguments)} ended with {child.returncode}")
    return cost(usage)


def look(recording: str, events: int) -> None:
    """Some packets of a recording that was read before."""
    middle = str(events // EVENTS_OF_A_PACKET)
    for words in (("--packet", middle), ("--since", "1s", "--until", "1.01s")):
        begun = time.perf_counter()
        cost = run("show", "--json", recording, *words)
        elapsed = time.perf_counter() - begun
        print(
            f"| show {' '.join(words)}, {events:,} events, a second look | {elapsed * 1e3:.0f} ms,"
            f" {cost.seconds * 1e3:.0f} ms of CPU | 1,000 ms |"
        )


def measure(found: dict[str, list[tuple[int, Cost]]], recording: str, directory: str) -> None:
    """What a recording costs each way."""
    info = [sys.executable, "-m", "iptrec", "info", "--json", recording]
    done = subprocess.run(info, capture_output=True, check=True)
    events = json.loads(done.stdout)["events"]
    for name, words in WAYS.items():
        filled = [one.replace("{}/", f"{directory}/").replace("{}", recording) for one in words]
        told(found, name, events, run(*filled))


def told(found: dict[str, list[tuple[int, Cost]]], name: str, events: int, one: Cost) -> None:
    """Keep and print a cost."""
    found[name].append((events, one))
    print(
        f"| {name}, {events:,} events | {one.seconds:.2f} s of CPU, {one.memory / 1e6:.0f} MB | |",
        flush=True,
    )


def main() -> None:
    """Measure and draw."""
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "scale.svg"
    most = int(sys.argv[2]) if len(sys.argv) > 2 else SIZES[-1]  # noqa: PLR2004
    found: dict[str, list[tuple[int, Cost]]] = {name: [] for name in ("record", *WAYS)}
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        recording = f"{directory}/scale.db"
        for size in [one for one in SIZES if one <= most]:
            told(found, "record", size, record(recording, size))
            measure(found, recording, directory)
            if size >= LONG:
                look(recording, size)
        if most >= REPEATED * SIZES[-1]:
            repeat(recording, f"{directory}/repeated.db", REPEATED)
            measure(found, f"{directory}/repeated.db", directory)
    output.write_text(
        draw(
            Panel("CPU time (s)", {
                name: [(events, one.seconds) for events, one in costs] for name, costs in found.items()
            }),
            Panel("memory at most (MB)", {
                name: [(events, one.memory / 1e6) for events, one in costs] for name, costs in found.items()
            }),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
