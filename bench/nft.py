"""Recording nf_tables' traces against `nft monitor trace > /dev/null`: the same namespace, rules and traffic.

usage: python bench/nft.py [SECONDS]
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time

from says import until_it_says
from tcpdump import RULES, cpu_of, finished, send

from iptrec.demo.lab import Lab

RATES = (1_000, 5_000, 20_000)  # packets a second
TRACE = "*raw\n-A {} -p udp -j TRACE\nCOMMIT\n"


def iptrec(lab: Lab, output: str, seconds: float, rate: int) -> tuple[int, float, int]:
    """Packets sent, CPU time (s), and events that were recorded."""
    command = [
        sys.executable,
        "-m",
        "iptrec",
        "record",
        "udp",
        "--family",
        "ipv4",
        "--backend",
        "nft",
    ]
    recorder = lab.popen([*command, "--force", "-o", output], stderr=subprocess.PIPE)
    until_it_says(b"recording to", recorder)
    time.sleep(0.5)
    before = cpu_of(recorder.pid)  # what the start takes is another figure
    sent = send(lab, seconds, rate)
    cpu = finished(recorder) - before
    told = [sys.executable, "-m", "iptrec", "info", "--json", output]
    facts = json.loads(subprocess.run(told, capture_output=True, check=True).stdout)
    return sent, cpu, facts["events"]


def monitor(lab: Lab, seconds: float, rate: int) -> tuple[int, float]:
    """The same with nft, after the same set-up by hand."""
    for chain in ("PREROUTING", "OUTPUT"):
        lab.run(["iptables-nft-restore", "--noflush"], stdin=TRACE.format(chain))
    watching = lab.popen(
        ["nft", "monitor", "trace"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    time.sleep(0.5)
    before = cpu_of(watching.pid)
    sent = send(lab, seconds, rate)
    cpu = finished(watching) - before
    for chain in ("PREROUTING", "OUTPUT"):
        lab.run(["iptables-nft", "-t", "raw", "-F", chain])
    return sent, cpu


def lost_by_monitor(lab: Lab, seconds: float, rate: int) -> float:
    """The share of the events that nft does not print, counted by its own lines of "packet:" in raw OUTPUT."""
    for chain in ("PREROUTING", "OUTPUT"):
        lab.run(["iptables-nft-restore", "--noflush"], stdin=TRACE.format(chain))
    watching = lab.popen(["nft", "monitor", "trace"], stdout=subprocess.PIPE)
    lines = ["grep", "-c", "raw OUTPUT packet"]
    with subprocess.Popen(lines, stdin=watching.stdout, stdout=subprocess.PIPE) as counting:
        watching.stdout.close()
        time.sleep(0.5)
        sent = send(lab, seconds, rate)
        time.sleep(2)
        watching.kill()  # a job in the background may ignore other signals
        watching.wait()
        counted, _ = counting.communicate(timeout=120)
    for chain in ("PREROUTING", "OUTPUT"):
        lab.run(["iptables-nft", "-t", "raw", "-F", chain])
    return 1 - int(counted or 0) / sent


def main() -> None:
    """Measure."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES, "nft")
        for rate in RATES:
            sent, ours, events = iptrec(lab, f"{directory}/bench.db", seconds, rate)
            others, theirs = monitor(lab, seconds, rate)
            each = events / sent
            lost = lost_by_monitor(lab, seconds, rate)
            print(
                f"| {rate:,} packets/s, {each:.1f} events each: lost by iptrec and by nft monitor |"
                f" {1 - each / round(each):.2%} and {lost:.1%} | 0 where nft has 0 |"
            )
            own, other = ours / events, theirs / (others * each * (1 - lost))
            ratio = own / other
            print(
                f"| {rate:,} packets/s: CPU an event that is told, iptrec and nft, against nft |"
                f" {own * 1e6:.2f} and {other * 1e6:.2f} us, {ratio:.2f} | 0.33 |"
            )


if __name__ == "__main__":
    main()
