"""What recording costs the host: forwarded packets that the filter does not match, and such that it does.

usage: python bench/forward.py [ROUNDS]

A host sends to another one through a router, on which the recorder runs: a TCP stream, and a flood of small
datagrams. The router's work is done in the sender's time (veth hands packets over in the same softirq), so the
sender's processor time for a packet, or a megabyte, is the measure: the least of some rounds with and without
a recorder, taken in turn.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from says import until_it_says
from tcpdump import BUFFER_KIB, TRACE

from iptrec.demo.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKETS = 200_000
RULES = """\
*raw
:PREROUTING ACCEPT
:OUTPUT ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT
:FORWARD ACCEPT
:POSTROUTING ACCEPT
COMMIT
*filter
:FORWARD DROP
:one -
-A FORWARD -p tcp -m tcp --dport 22 -j one
-A FORWARD -p udp -j ACCEPT
-A FORWARD -p tcp -j ACCEPT
COMMIT
"""
FLOOD = f"""\
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("10.0.2.2", 9))
payload = bytes(100)
begun = time.process_time()
for _ in range({PACKETS}):
    out.send(payload)
print(time.process_time() - begun)
"""
STREAMED = 2000  # MB
STREAM = f"""\
import socket, time
out = socket.create_connection(("10.0.2.2", 80))
payload = bytes(1_000_000)
begun = time.process_time()
for _ in range({STREAMED}):
    out.sendall(payload)
print(time.process_time() - begun)
"""
SINK = """\
import socket
listening = socket.create_server(("10.0.2.2", 80))
print("ready", flush=True)
while True:
    got, _ = listening.accept()
    buffer = bytearray(1 << 20)
    while got.recv_into(buffer):
        pass
"""


def router(lab: Lab) -> None:
    """Two hosts, and the lab's own as the router between them."""
    for net in (1, 2):
        lab.host(f"h{net}")
        lab.link(f"h{net}", "eth0", f"10.0.{net}.2/24", peer=f"v{net}")
        lab.ip(None, f"address add 10.0.{net}.1/24 dev v{net}")
        lab.ip(f"h{net}", f"route add default via 10.0.{net}.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.restore(None, "ipv4", RULES)
    # Where datagrams arrive they are dropped at once: the receiver's work is none of the router's.
    lab.restore("h2", "ipv4", "*raw\n-A PREROUTING -p udp -j DROP\nCOMMIT\n")
    lab.settle()
    sink = lab.popen([sys.executable, "-c", SINK], "h2", stdout=subprocess.PIPE)
    sink.stdout.readline()


def flood(lab: Lab) -> float:
    """Processor time (us) a packet."""
    done = lab.run([sys.executable, "-c", FLOOD], "h1", timeout=120)
    return float(done.stdout) / PACKETS * 1e6


def stream(lab: Lab) -> float:
    """Processor time (us) a megabyte."""
    done = lab.run([sys.executable, "-c", STREAM], "h1", timeout=120)
    return float(done.stdout) / STREAMED * 1e6


@contextmanager
def recording(lab: Lab, expression: str, directory: str, *options: str) -> Iterator[int]:
    """While iptrec records; its pid."""
    command = [sys.executable, "-m", "iptrec", "record", expression, "--force", *options]
    recorder = lab.popen([*command, "-o", f"{directory}/bench.db"], stderr=subprocess.PIPE)
    until_it_says(b"recording to", recorder)
    try:
        yield recorder.pid
    finally:
        recorder.terminate()
        said = recorder.communicate()[1]
        if recorder.returncode:
            sys.exit(f"iptrec record: {said.decode()}")


@contextmanager
def capturing(lab: Lab, directory: str) -> Iterator[None]:
    """While tcpdump captures the events of a TRACE rule that was made by hand."""
    lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="nfnetlink_log")
    lab.run(["iptables-legacy-restore", "--noflush"], stdin=TRACE.format("PREROUTING"))
    command = ["tcpdump", "-i", "nflog:0", "-B", str(BUFFER_KIB), "-s", "256"]
    capture = lab.popen([*command, "-w", f"{directory}/bench.pcap"], stderr=subprocess.PIPE)
    until_it_says(b"listening", capture)
    try:
        yield
    finally:
        capture.terminate()
        capture.communicate()
        lab.run(["iptables-legacy", "-t", "raw", "-F", "PREROUTING"])
        lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="NONE")


def main() -> None:
    """Measure."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    names = ("alone", "not matched", "iptrec", "tcpdump", "stream", "stream not matched")
    costs: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        router(lab)
        for _ in range(rounds):
            costs["alone"].append(flood(lab))
            costs["stream"].append(stream(lab))
            with recording(lab, "tcp port 443 and host 192.0.2.1", directory):
                costs["not matched"].append(flood(lab))
                costs["stream not matched"].append(stream(lab))
            with recording(lab, "udp", directory):
                costs["iptrec"].append(flood(lab))
            with capturing(lab, directory):
                costs["tcpdump"].append(flood(lab))
    least = {name: min(one) for name, one in costs.items()}
    print(f"| a megabyte of a forwarded TCP stream, nobody records | {least['stream']:.0f} us | |")
    ratio = least["stream not matched"] / least["stream"]
    print(f"| a stream that the recorder's filter does not match | {ratio:.3f} of it | 1.02 |")
    print(f"| a small forwarded datagram, nobody records | {least['alone']:.2f} us | |")
    ratio = least["not matched"] / least["alone"]
    print(f"| a datagram that the recorder's filter does not match | {ratio:.3f} of it | 1.02 |")
    ratio = least["iptrec"] / least["tcpdump"]
    print(f"| matched, against tcpdump on nflog | {ratio:.2f} | 1.0 |")


if __name__ == "__main__":
    main()
