"""What it costs to ask the kernel about packets that vanish: the same floods with and without questions.

usage: python bench/asked.py [SECONDS]

A host sends to a router, at a given rate: packets that arrive, packets without a route from one sender, and
some from ever new senders. Nothing is recorded of drops: where that tells, nobody is asked. Prints the
recorder's CPU time with questions in relation to that without.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from typing import Final

from says import until_it_says
from tcpdump import RULES, cpu_of, finished

from iptrec.demo.lab import Lab

RATE: Final = 20_000  # packets a second
ROUNDS: Final = 3
WAYS: Final = {
    "that arrive": "10.0.1.1 1",
    "without a route": "10.9.9.9 1",
    "of new senders": "10.9.9.9 60000",
}
SENDER: Final = """\
import socket, struct, sys, time
to, sources, seconds, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def packet(number):
    source = struct.pack("!I", 0x0a000102 + number % sources * 256 * (sources > 1))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 128, number & 65535, 0, 64, 17, 0)
    return head + source + socket.inet_aton(to) + struct.pack("!HHHH", 1000, 9, 108, 0) + bytes(100)
begun, sent = time.monotonic(), 0
while (passed := time.monotonic() - begun) < seconds:
    due = int(passed * rate)
    for number in range(sent, due):
        out.sendto(packet(number), (to, 0))
    sent = max(sent, due)
    time.sleep(0.001)
print(sent)
"""
WITHOUT: Final = (
    "from iptrec.recorder.asking import Asking; Asking.take = lambda *_: None\n"
    "from iptrec.__main__ import main; main()"
)


def main() -> None:
    """Measure."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
    for backend in ("legacy", "nft"):
        for name, way in WAYS.items():
            ratios, costs, told = [], [], {}
            for _ in range(ROUNDS):
                with_, told = measured(backend, way, seconds, ["-m", "iptrec"])
                without, _ = measured(backend, way, seconds, ["-c", WITHOUT])
                ratios.append(with_ / without)
                costs.append(without)
            asked = told["asked"]
            print(
                f"| CPU with questions, {backend}, packets {name} | {statistics.median(ratios):.2f} times,"
                f" {statistics.median(costs):.2f} us an event; {asked['questions']:,} questions | |",
                flush=True,
            )


def measured(
    backend: str, way: str, seconds: float, program: list[str]
) -> tuple[float, dict[str, dict[str, int]]]:
    """The recorder's CPU time an event (us), and what info tells."""
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        output = f"{directory}/t.db"
        lab.ip(None, "link set lo up")
        lab.host("a")
        lab.link("a", "eth0", "10.0.1.2/24", peer="to-a")
        lab.ip(None, "address add 10.0.1.1/24 dev to-a")
        lab.ip("a", "route add default via 10.0.1.1")
        for key in ("ip_forward", "conf/all/rp_filter", "conf/to-a/rp_filter"):
            lab.sysctl(None, f"net/ipv4/{key}", int(key == "ip_forward"))
        lab.restore(None, "ipv4", RULES, backend)
        options = [
            "record",
            "udp",
            "--backend",
            backend,
            "--family",
            "ipv4",
            "--drops",
            "no",
            "-o",
            output,
        ]
        recorder = lab.popen([sys.executable, *program, *options], stderr=subprocess.PIPE)
        until_it_says(b"recording to", recorder)
        before = cpu_of(recorder.pid)
        lab.run([sys.executable, "-c", SENDER, *way.split(), str(seconds), str(RATE)], "a")
        cpu = finished(recorder) - before
        command = [sys.executable, "-m", "iptrec", "info", "--json", output]
        told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return cpu / told["events"] * 1e6, told


if __name__ == "__main__":
    main()
