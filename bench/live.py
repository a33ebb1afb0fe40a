"""How soon a packet is told while it is recorded: from its last event to the line of `trace` about it.

usage: python bench/live.py [PACKETS]

A packet at a time, each dropped by a rule; once through the tap and once without.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from iptrec.demo.lab import Lab

RULES = "*filter\n:INPUT ACCEPT\n-A INPUT -p udp --dport 9 -j DROP\nCOMMIT\n"
SEND = """\
import socket, time
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
print(time.time_ns())
"""
FIRST = 3  # packets: until all that reads is loaded
PAUSE_S = 0.3


def told_after(backend: str, packets: int, *, tap: bool) -> list[float]:
    """Milliseconds from the end of sending, where the packet is gone, to its line."""
    with Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES, backend)
        command = [sys.executable, "-m", "iptrec", "trace", "--json", "--backend", backend]
        way = ["env", f"IPTREC_NO_TAP={int(not tap)}", "PYTHONUNBUFFERED=1"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        viewer = lab.popen([*way, *command, "udp port 9"], **pipes)
        viewer.stderr.readline()
        found = []
        for _ in range(FIRST + packets):
            sent_ns = int(lab.run([sys.executable, "-c", SEND]).stdout)
            while json.loads(viewer.stdout.readline())["verdict"] != "DROP":
                pass  # it was sent, and then comes in
            found.append((time.time_ns() - sent_ns) / 1e6)
            time.sleep(PAUSE_S)
        viewer.terminate()
        viewer.communicate()
    return found[FIRST:]


def main() -> None:
    """Measure."""
    packets = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for backend in ("legacy", "nft"):
        for tap in (True, False):
            found = told_after(backend, packets, tap=tap)
            way = "through the tap" if tap else "without a tap"
            print(
                f"| {backend}: told {way}, median (most) | {statistics.median(found):.0f}"
                f" ({max(found):.0f}) ms | {'60 ms' if tap else ''} |"
            )


if __name__ == "__main__":
    main()
