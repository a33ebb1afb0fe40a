"""A recorder that waits: processor time and memory while nothing happens, and how long it takes to begin.

usage: python bench/idle.py [SECONDS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from says import until_it_says

from iptrec.demo.lab import Lab

RUNS = 5
RULES = "*filter\n:INPUT ACCEPT\n-A INPUT -p tcp -j ACCEPT\nCOMMIT\n"


def start(lab: Lab, directory: str, backend: str) -> subprocess.Popen[bytes]:
    """One that records: its rules are in, the next packet is traced."""
    command = [sys.executable, "-m", "iptrec", "record", "icmp", "--backend", backend, "--force"]
    recorder = lab.popen([*command, "-o", f"{directory}/bench.db"], stderr=subprocess.PIPE)
    until_it_says(b"recording to", recorder)
    return recorder


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads, to the nanosecond: so little is no matter of clock ticks."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in tasks) / 1e9


def memory(pid: int) -> tuple[float, float]:
    """Resident, and the share of it that is this process's own (MB)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Rss"] / 1024, kib["Pss"] / 1024


def main() -> None:
    """Measure."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        for backend in ("legacy", "nft"):
            with Lab() as lab:
                lab.restore(None, "ipv4", RULES, backend)
                begun = []
                for _ in range(RUNS):
                    at = time.perf_counter()
                    recorder = start(lab, directory, backend)
                    begun.append(time.perf_counter() - at)
                    recorder.terminate()
                    recorder.communicate()
                recorder = start(lab, directory, backend)
                time.sleep(3)  # what is looked at first is looked at often
                before = cpu_of(recorder.pid)
                time.sleep(seconds)
                share = (cpu_of(recorder.pid) - before) / seconds
                resident, own = memory(recorder.pid)
                recorder.terminate()
                recorder.communicate()
            print(f"| {backend}: CPU while nothing happens | {share:.2%} | 0.1 % |")
            print(
                f"| {backend}: memory, resident (its own share) | {resident:.0f} ({own:.0f}) MB | 35 MB |"
            )
            print(
                f"| {backend}: from start to the first traced packet | {min(begun) * 1e3:.0f} ms | 250 ms |"
            )


if __name__ == "__main__":
    main()
