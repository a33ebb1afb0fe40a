"""The recorder of nf_tables against `nft monitor trace > /dev/null`: the same namespace and traffic.

usage: python bench/nft.py [SECONDS]

A sender keeps a given rate; of each of its packets the rules make a known number of events. Prints for both
programs the events lost, by the kernel's own count of what a socket had no room for, and the CPU time an
event.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tcpdump import RULES, Result, cpu_of, finished, send

from iptrec.kernel.lab import Lab

RATES = (1_000, 5_000, 20_000)  # packets a second
TRACE = "*raw\n{}COMMIT\n"
CHAINS = ("PREROUTING", "OUTPUT")


def main() -> None:
    """Measure."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES, "nft")
        for rate in RATES:
            ours, lost = iptrec(lab, f"{directory}/bench.db", seconds, rate)
            each = round((ours.events + lost) / ours.sent)
            theirs, dropped = monitor(lab, seconds, rate, each)
            print(
                f"| {rate:,} packets/s, {each} events each: lost by iptrec, by nft monitor trace"
                f" | {lost:,}, {dropped:,} of {theirs.sent * each:,} | 0 where nft has 0 |"
            )
            print(
                f"| CPU an event: iptrec, nft monitor trace | {ours.cpu_us:.2f}, {theirs.cpu_us:.2f} us | |"
            )
            print(f"| CPU an event against it | {ours.cpu_us / theirs.cpu_us:.2f} | 0.33 |")


def iptrec(lab: Lab, output: str, seconds: float, rate: int) -> tuple[Result, int]:
    """Record with iptrec; what came of it, and the events lost."""
    command = [sys.executable, "-m", "iptrec", "record", "udp", "--family", "ipv4"]
    recorder = lab.popen(
        [*command, "--backend", "nft", "--force", "-o", output], stderr=subprocess.PIPE
    )
    recorder.stderr.readline()
    time.sleep(0.5)
    before = cpu_of(recorder.pid)  # what the start takes is another figure
    sent = send(lab, seconds, rate)
    cpu = finished(recorder) - before
    info = subprocess.run(
        [sys.executable, "-m", "iptrec", "info", "--json", output], capture_output=True, check=True
    )
    facts = json.loads(info.stdout)
    return Result(sent, facts["events"], cpu, Path(output).stat().st_size), facts["lost"]


def monitor(lab: Lab, seconds: float, rate: int, each: int) -> tuple[Result, int]:
    """Let nft print the same traffic into nowhere; ``each``: the events that a packet makes."""
    rules = "".join(f"-A {chain} -p udp -j TRACE\n" for chain in CHAINS)
    lab.restore(None, "ipv4", TRACE.format(rules), "nft")
    nft = lab.popen(["nft", "monitor", "trace"], stdout=subprocess.DEVNULL)
    while not (port := _listening(lab)):
        time.sleep(0.01)
    before = cpu_of(nft.pid)
    sent = send(lab, seconds, rate)
    while nft.poll() is None:  # it has read all when it rests
        used = cpu_of(nft.pid)
        time.sleep(0.5)
        if cpu_of(nft.pid) == used:
            break
    dropped = _listening(lab).get(next(iter(port)), 0)
    cpu = finished(nft) - before
    lab.run(["nft", "delete", "table", "ip", "raw"])
    return Result(sent, sent * each - dropped, cpu, 0), dropped


def _listening(lab: Lab) -> dict[int, int]:
    """Who listens to traces: netlink port -> messages that it had no room for."""
    lines = lab.run(["cat", "/proc/net/netlink"]).stdout.splitlines()[1:]
    fields = [line.split() for line in lines]
    return {
        int(one[2]): int(one[8]) for one in fields if one[1] == "12" and int(one[3], 16) >> 8 & 1
    }


if __name__ == "__main__":
    main()
