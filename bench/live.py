"""How soon a packet is told while it is recorded: from its last event to what `trace` writes of it.

usage: python bench/live.py [PACKETS]

A packet at a time, dropped by a rule or accepted by the policy; as JSON and as pcapng, through the tap and
without it; also through the pipe by which Wireshark captures.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final

from iptrec.demo.lab import Lab

RULES: Final = "*filter\n:INPUT ACCEPT\n-A INPUT -p udp --dport 9 -j DROP\nCOMMIT\n"
SEND: Final = """\
import socket, time
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end.bind(("127.0.0.1", 10))
end.sendto(b"x", ("127.0.0.1", PORT))
if PORT == 10:
    end.recv(1)
print(time.time_ns())
"""
PORTS: Final = {"DROP": 9, "ACCEPT": 10}
FIRST: Final = 3  # packets: until all that reads is loaded
FILTER: Final = "udp port 9 or udp port 10"
PAUSE_S: Final = 0.3
_PACKET: Final = 6  # an enhanced packet block


def of_json(stream: IO[bytes], verdict: str) -> None:
    """Read up to the packet that came in, which was sent before."""
    while True:
        packet = json.loads(stream.readline())
        if packet["in"] and packet["verdict"] == verdict:
            return


def of_pcapng(stream: IO[bytes], verdict: str) -> None:
    """The same."""
    while True:
        kind, size = struct.unpack("<II", stream.read(8))
        body = stream.read(size - 8)
        if kind == _PACKET and f"{verdict} by filter/INPUT".encode() in body:
            return


FORMS: Final = {"--json": (["--json"], of_json), "--pcapng -": (["--pcapng", "-"], of_pcapng)}
EXTCAP: Final = "extcap"
FORMS[EXTCAP] = ([], of_pcapng)


def captured(lab: Lab, backend: str) -> tuple[subprocess.Popen[str], IO[bytes]]:
    """A capture as Wireshark begins it, and the pipe with its packets."""
    fifo = Path(tempfile.mkdtemp(), "fifo")
    os.mkfifo(fifo)
    command = [
        sys.executable, "-m", "iptrec", "extcap", "--capture", "--extcap-interface", "iptrec",
        "--fifo", str(fifo), "--backend", backend, "--extcap-capture-filter", FILTER,
    ]  # fmt: skip
    child = lab.popen(command)
    stream = fifo.open("rb")
    shutil.rmtree(fifo.parent)
    head = stream.read(8)  # it is ready
    stream.read(struct.unpack_from("<I", head, 4)[0] - 8)
    return child, stream


def told_after(backend: str, form: str, verdict: str, packets: int, *, tap: bool) -> list[float]:
    """Milliseconds from the end of sending, where the packet is gone, to what is written of it."""
    options, read = FORMS[form]
    with Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES, backend)
        command = [sys.executable, "-m", "iptrec", "trace", *options, "--backend", backend]
        way = ["env", f"IPTREC_NO_TAP={int(not tap)}", "PYTHONUNBUFFERED=1"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if form == EXTCAP:
            viewer, stream = captured(lab, backend)
        else:
            viewer = lab.popen([*way, *command, FILTER], **pipes)
            viewer.stderr.readline()
            stream = viewer.stdout
        found = []
        send = SEND.replace("PORT", str(PORTS[verdict]))
        for _ in range(FIRST + packets):
            sent_ns = int(lab.run([sys.executable, "-c", send]).stdout)
            read(stream, verdict)
            found.append((time.time_ns() - sent_ns) / 1e6)
            time.sleep(PAUSE_S)
        viewer.terminate()
        viewer.communicate()
    return found[FIRST:]


def main() -> None:
    """Measure."""
    packets = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for backend in ("legacy", "nft"):
        for form, verdict, tap in (
            ("--json", "DROP", True), ("--json", "DROP", False),
            ("--pcapng -", "DROP", True), ("--pcapng -", "ACCEPT", True), ("--pcapng -", "DROP", False),
            (EXTCAP, "DROP", True), (EXTCAP, "ACCEPT", True),
        ):  # fmt: skip
            found = told_after(backend, form, verdict, packets, tap=tap)
            way = "" if tap else ", without a tap"
            target = "300 ms" if form != "--json" else "60 ms" if tap else ""
            print(
                f"| {backend}: {verdict} told by {form}{way}, median (most) | {statistics.median(found):.0f}"
                f" ({max(found):.0f}) ms | {target} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
