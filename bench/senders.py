"""What it costs to tell who sends: packets that nobody traces, that are traced, and of new sockets.

usage: python bench/senders.py [ROUNDS]

The recorder's program runs at OUTPUT, in the sender's time. Each figure is a ratio of recorders with and
without the right to load programs (CAP_BPF) in one run, the least of some rounds (five), taken in turn.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from drops import compare
from says import until_it_says
from tcpdump import cpu_of

from iptrec.demo.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKETS = 100_000
ONE, NEW = "one socket", "a new socket for each"
SEND = f"""\
import socket, sys, time
target = ("10.0.1.2", 9)
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
payload = bytes(100)
begun = time.process_time()
for _ in range({PACKETS}):
    out = one if sys.argv[1] == "{ONE}" else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.sendto(payload, target)
print(time.process_time() - begun)
"""
WAYS = {  # what is recorded, and from what it is sent
    "not traced": ("tcp port 443 and host 192.0.2.1", ONE),
    "traced": ("udp", ONE),
    "traced, a new socket for each": ("udp", NEW),
}
# Times as much at most: who has told of its socket costs a look-up.
TARGETS = {("not traced", "sender"): 1.02, ("traced", "sender"): 1.02, ("traced", "recorder"): 1.02}
RIGHTS = {
    "without CAP_BPF": ["setpriv", "--bounding-set", "-bpf,-sys_admin"],
    "with CAP_BPF": ["setpriv", "--bounding-set", "-sys_admin"],
}


@contextmanager
def recording(lab: Lab, expression: str, directory: str, rights: str) -> Iterator[int]:
    """While iptrec records with these rights; its pid."""
    command = [*RIGHTS[rights], sys.executable, "-m", "iptrec", "record", expression]
    options = ["--force", "--drops", "no", "-v", "-o", f"{directory}/bench.db"]
    recorder = lab.popen([*command, *options], stderr=subprocess.PIPE)
    until_it_says(b"recording to", recorder)
    try:
        yield recorder.pid
    finally:
        recorder.terminate()
        refused = b"senders of packets are not recorded" in recorder.communicate()[1]
        if refused == ("-bpf" not in RIGHTS[rights][-1]):
            sys.exit(f"{rights}: senders are {'not ' if refused else ''}told")


def measured(lab: Lab, way: str, rights: str, directory: str) -> tuple[float, float]:
    """Processor time (us) a packet: of the sender, and of the recorder."""
    expression, sockets = WAYS[way]
    with recording(lab, expression, directory, rights) as pid:
        before = cpu_of(pid)
        sender = float(lab.run([sys.executable, "-c", SEND, sockets], timeout=120).stdout)
        recorder = cpu_of(pid) - before
    return sender / PACKETS * 1e6, recorder / PACKETS * 1e6


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        lab.host("h1")
        lab.link("h1", "eth0", "10.0.1.2/24", peer="v1")
        lab.ip(None, "address add 10.0.1.1/24 dev v1")
        lab.restore("h1", "ipv4", "*raw\n-A PREROUTING -p udp -j DROP\nCOMMIT\n")
        lab.settle()
        rights = "without CAP_BPF", "with CAP_BPF"
        compare(lambda way, who: measured(lab, way, who, directory), WAYS, rights, TARGETS)


if __name__ == "__main__":
    main()
