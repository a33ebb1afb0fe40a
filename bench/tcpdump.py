"""The recorder against `tcpdump -i nflog:0 -w`: the same namespace, traffic and receive buffer.

usage: python bench/tcpdump.py [SECONDS]

A sender keeps a given rate; of each of its packets the rules make a known number of events. Prints for
both programs the events lost, the CPU time an event, and the bytes an event on the disk.
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

from says import until_it_says

from iptrec.demo.lab import Lab

BUFFER_KIB = 256 << 10  # the kernel's bookkeeping takes twice as much: 512 MiB
RATES = (10_000, 50_000, 0)  # packets a second; 0: as fast as a core can
BUSY = 50_000  # from here on what a look costs is shared by many events
RULES = """\
*raw
:PREROUTING ACCEPT
:OUTPUT ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
-A OUTPUT -p udp -j MARK --set-mark 1
COMMIT
*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
:one -
:two -
-A INPUT -p udp -j one
-A INPUT -p udp -j DROP
-A one -p udp -j two
-A two -p udp -j RETURN
COMMIT
"""
_IDLE_S = 0.02
TRACE = "*raw\n-A {} -p udp -j TRACE\nCOMMIT\n"
# The payload is noise, so that the file's size is that of traffic which does not compress.
SENDER = """\
import os, socket, sys, time
noise = os.urandom(1 << 20)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("127.0.0.1", 9))
seconds, rate = float(sys.argv[1]), int(sys.argv[2])
begun = time.monotonic()
sent = at = 0
while (passed := time.monotonic() - begun) < seconds:
    due = int(passed * rate) if rate else sent + 100
    for _ in range(due - sent):
        at = (at + 191) % 1000003
        out.send(noise[at : at + 100])
    sent = max(sent, due)
    if rate:
        time.sleep(0.001)
print(sent)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What one program made of a flood."""

    sent: int  # packets
    events: int
    cpu_s: float
    size: int

    @property
    def cpu_us(self) -> float:
        """An event's."""
        return self.cpu_s / self.events * 1e6

    @property
    def bytes(self) -> float:
        """An event's, on the disk."""
        return self.size / self.events


def main() -> None:
    """Measure."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES)
        for rate in RATES:
            ours = iptrec(lab, f"{directory}/bench.db", seconds, rate)
            theirs = tcpdump(lab, f"{directory}/bench.pcap", seconds, rate)
            load = f"{rate:,}" if rate else "as many as can be"
            events = ours.events / ours.sent
            ratio = ours.cpu_us / theirs.cpu_us
            print(
                f"| {load} packets/s, {events:.0f} events each: lost by iptrec and by tcpdump",
                end="",
            )
            print(
                f" | {', '.join(f'{one:.2%}' for one in missing(ours, theirs))} | 0 where tcpdump has 0 |"
            )
            print(
                f"| {load} packets/s: CPU an event, iptrec and tcpdump, against tcpdump |"
                f" {ours.cpu_us:.2f} and {theirs.cpu_us:.2f} us, {ratio:.2f} |"
                f" {1.0 if 0 < rate < BUSY else 0.5} |"
            )
            print(
                f"| {load} packets/s: bytes an event, iptrec and tcpdump |"
                f" {ours.bytes:.0f} and {theirs.bytes:.0f} | 32 |"
            )


def missing(ours: Result, theirs: Result) -> list[float]:
    """Events a packet are the same for both: who has fewer has lost some. The share that is missing."""
    events = [one.events / one.sent for one in (ours, theirs)]
    return [1 - one / round(max(events)) for one in events]


def iptrec(lab: Lab, output: str, seconds: float, rate: int) -> Result:
    """Record with iptrec."""
    command = [sys.executable, "-m", "iptrec", "record", "udp", "--family", "ipv4"]
    recorder = lab.popen([*command, "--force", "-o", output], stderr=subprocess.PIPE)
    until_it_says(b"recording to", recorder)
    time.sleep(0.5)
    before = cpu_of(recorder.pid)  # what the start takes is another figure
    sent = send(lab, seconds, rate)
    cpu = finished(recorder) - before
    info = subprocess.run(
        [sys.executable, "-m", "iptrec", "info", "--json", output], capture_output=True, check=True
    )
    facts = json.loads(info.stdout)
    return Result(sent, facts["events"], cpu, Path(output).stat().st_size)


def tcpdump(lab: Lab, output: str, seconds: float, rate: int) -> Result:
    """Capture with tcpdump, after the same set-up by hand."""
    lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="nfnetlink_log")
    for change in ("PREROUTING", "OUTPUT"):
        lab.run(["iptables-legacy-restore", "--noflush"], stdin=TRACE.format(change))
    command = ["tcpdump", "-i", "nflog:0", "-B", str(BUFFER_KIB), "-s", "256", "-w", output]
    capture = lab.popen(command, stderr=subprocess.PIPE)
    until_it_says(b"listening", capture)
    before = cpu_of(capture.pid)
    sent = send(lab, seconds, rate)
    cpu = finished(capture) - before
    for chain in ("PREROUTING", "OUTPUT"):
        lab.run(["iptables-legacy", "-t", "raw", "-F", chain])
    lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="NONE")
    told = subprocess.run(["capinfos", "-cMrT", output], capture_output=True, check=True)
    return Result(sent, int(told.stdout.split()[-1]), cpu, Path(output).stat().st_size)


def send(lab: Lab, seconds: float, rate: int) -> int:
    """The traffic; how many packets."""
    command = [sys.executable, "-c", SENDER, str(seconds), str(rate)]
    return int(lab.run(command, timeout=seconds + 60).stdout)


def cpu_of(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def finished(process: subprocess.Popen[bytes]) -> float:
    """Stop it once it has read all that waits; the CPU seconds that it has used until then."""
    cpu, before = cpu_of(process.pid), -1.0
    while cpu - before > _IDLE_S:
        time.sleep(0.5)
        before, cpu = cpu, cpu_of(process.pid)
    process.terminate()  # a job in the background ignores SIGINT
    process.communicate()
    return cpu


if __name__ == "__main__":
    main()
