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
LOADED = (
    "import iptrec.recorder.session, iptrec.cli.record, re;"
    r"print(re.search(r'VmRSS:\s+(\d+)', open('/proc/self/status').read())[1])"
)
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


def memory(pid: int) -> tuple[float, float, float]:
    """Resident, the share of it that is this process's own, and how much of both is rings of the kernel (MB).

    A ring counts twice: it is mapped once more behind itself.
    """
    found, name = {"Rss": 0, "Pss": 0, "rings": 0}, ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):
            name = values[-1]
        elif key in ("Rss:", "Pss:"):
            found[key.rstrip(":")] += int(values[0])
            if key == "Rss:" and name.endswith("bpf-map"):
                found["rings"] += int(values[0])
    return found["Rss"] / 1024, found["Pss"] / 1024, found["rings"] / 1024


def floor() -> float:
    """What Python takes with numpy and all that a recorder loads, before it does anything (MB, resident)."""
    told = subprocess.run(
        [sys.executable, "-c", LOADED], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(told.stdout) / 1024


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
                resident, own, rings = memory(recorder.pid)
                recorder.terminate()
                recorder.communicate()
            print(f"| {backend}: CPU while nothing happens | {share:.2%} | 0.1 % |")
            print(
                f"| {backend}: memory, resident (its own share) without rings of the kernel, and these |"
                f" {resident - rings:.0f} ({own - rings:.0f}) MB, {rings:.0f} MB | 35 MB |"
            )
            print(f"| {backend}: of it what is loaded before it begins | {floor():.0f} MB | |")
            print(
                f"| {backend}: from start to the first traced packet | {min(begun) * 1e3:.0f} ms | 250 ms |"
            )


if __name__ == "__main__":
    main()
