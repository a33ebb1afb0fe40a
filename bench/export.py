"""Exporting a recording for Wireshark, against Wireshark's own tool copying the same packets.

usage: python bench/export.py trace.db

`tshark -r IN -w OUT` reads and writes without looking into packets. IN is once the kernel's events (what
a capture with tcpdump has), once the finished packets, and once the events are also dissected for four
fields: what comes nearest to the facts that an export states.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIELDS = ("frame.time_epoch", "ip.src", "ip.dst", "nflog.prefix")


def timed(*command: str) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measure."""
    recording = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        events, packets = (str(Path(directory) / name) for name in ("events", "packets"))
        iptrec = (sys.executable, "-m", "iptrec", "export", "pcapng", recording, "--force", "-o")
        timed(*iptrec, events, "--events")
        own = min(timed(*iptrec, packets) for _ in range(3))
        for what, command in {
            "copying the events": ("tshark", "-r", events, "-w", f"{directory}/copy"),
            "copying the packets": ("tshark", "-r", packets, "-w", f"{directory}/copy"),
            "printing four fields of the events": (
                "tshark", "-n", "-r", events, "-T", "fields", *(w for f in FIELDS for w in ("-e", f)),
            ),
        }.items():  # fmt: skip
            other = min(timed(*command) for _ in range(2))
            print(
                f"export: {own:.2f} s; tshark {what}: {other:.2f} s; {other / own:.2f} times as long"
            )


if __name__ == "__main__":
    main()
