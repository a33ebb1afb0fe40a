"""What it costs to tell ends: a flood that a socket takes, and one half of which dies behind the rules.

usage: python bench/ends.py [EVENTS]

Of the second one a quarter finds no route and a quarter no socket, and this host answers: each of them has to
be asked for. Processor time of whole commands, taken in turn; the ratio is of a packet's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Final

from says import until_it_says
from scale import run

from iptrec.demo.lab import Lab

EVENTS: Final = 300_000
RUNS: Final = 3
EVENTS_OF_A_PACKET: Final = 8
FLOODS: Final = {
    "heard": ("10.0.1.1 9",),
    "half dead": ("10.0.1.1 9", "10.9.9.9 9", "10.0.1.1 9", "10.0.1.1 10"),
}
RULES: Final = """\
*raw
:PREROUTING ACCEPT
-A PREROUTING -p udp -j RETURN
COMMIT
*mangle
:PREROUTING ACCEPT
:INPUT ACCEPT
-A PREROUTING -p udp -j MARK --set-mark 1
COMMIT
*filter
:INPUT ACCEPT
:one -
-A INPUT -p udp -j one
-A INPUT -p udp -j ACCEPT
-A one -p udp -j RETURN
COMMIT
"""
RATE: Final = 10_000  # packets a second
SENDER: Final = """\
import os, socket, struct, sys, time
noise = os.urandom(1 << 20)
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
ways = [(to, int(port)) for to, port in map(str.split, sys.argv[3:])]
begun = time.monotonic()
for number in range(int(sys.argv[1])):
    to, port = ways[number % len(ways)]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 128, number & 65535, 0, 64, 17, 0)
    head += socket.inet_aton("10.0.1.2") + socket.inet_aton(to)
    at = number * 191 % 1000003
    udp = struct.pack("!HHHH", 1024 + number % 64, port, 108, 0)
    out.sendto(head + udp + noise[at : at + 100], (to, 0))
    if not number % 50:
        time.sleep(max(0, begun + number / int(sys.argv[2]) - time.monotonic()))
"""
LISTENER: Final = """\
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("", 9))
print(flush=True)
while True:
    one.recv(9)
"""


def main() -> None:
    """Measure."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        files = {name: f"{directory}/{name.replace(' ', '-')}.db" for name in FLOODS}
        packets = {name: record(files[name], events, FLOODS[name]) for name in FLOODS}
        for words in (("paths",), ("export", "pcapng"), ("export", "sqlite")):
            output = ("--force", "-o", f"{directory}/made") if words[0] == "export" else ()
            costs: dict[str, list[float]] = {name: [] for name in FLOODS}
            for name in list(FLOODS) * RUNS:
                costs[name].append(run(*words, files[name], *output).seconds)
            heard, dead = (min(costs[name]) / packets[name] * 1e6 for name in FLOODS)
            print(
                f"| {' '.join(words)}, half of the packets dead: a packet | {dead:.1f} us,"
                f" {dead / heard:.2f} times that of packets that are heard | |",
                flush=True,
            )


def record(output: str, events: int, ways: tuple[str, ...]) -> int:
    """Record a flood of about so many events; how many packets there are."""
    with Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.host("a")
        lab.link("a", "eth0", "10.0.1.2/24", peer="to-a")
        lab.ip(None, "address add 10.0.1.1/24 dev to-a")
        lab.ip("a", "route add default via 10.0.1.1")
        for key in ("ip_forward", "conf/all/rp_filter", "conf/to-a/rp_filter", "icmp_ratelimit"):
            lab.sysctl(None, f"net/ipv4/{key}", int(key == "ip_forward"))
        lab.restore(None, "ipv4", RULES)
        listener = lab.popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE)
        listener.stdout.readline()
        command = [sys.executable, "-m", "iptrec", "record", "udp or icmp", "--drops", "no"]
        recorder = lab.popen([*command, "--force", "-o", output], stderr=subprocess.PIPE)
        until_it_says(b"recording to", recorder)
        sender = [sys.executable, "-c", SENDER, str(events // EVENTS_OF_A_PACKET), str(RATE)]
        lab.run([*sender, *ways], "a", timeout=600)
        recorder.terminate()
        recorder.communicate()
    info = [sys.executable, "-m", "iptrec", "info", "--json", output]
    told = json.loads(subprocess.run(info, capture_output=True, check=True).stdout)
    return int(told["packets"])


if __name__ == "__main__":
    main()
