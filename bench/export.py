"""Exporting a recording for Wireshark, against Wireshark's own tool copying the same packets.

usage: python bench/export.py trace.db

`tshark -r IN -w OUT` reads and writes without looking into packets. IN is once the kernel's events (what
a capture with tcpdump has), once the finished packets. Printing four fields of the events (when, from where,
to where, which rule) is what tshark has of the facts that finished traces are made of; this is compared with
putting the traces together (`paths`) and with printing all that is known of them (`show --json`). Processor
time throughout.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

FIELDS = ("frame.time_epoch", "ip.src", "ip.dst", "nflog.prefix")


LEAST = 20  # times


def spent(*command: str) -> float:
    """Seconds of processor time that a command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure."""
    recording = sys.argv[1]
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        events, packets = (str(Path(directory) / name) for name in ("events", "packets"))
        iptrec = (sys.executable, "-m", "iptrec")
        export = (*iptrec, "export", "pcapng", recording, "--force", "-o")
        spent(*export, events, "--events")
        own = min(spent(*export, packets) for _ in range(3))
        for what, source in {"events": events, "packets": packets}.items():
            other = min(spent("tshark", "-r", source, "-w", f"{directory}/copy") for _ in range(2))
            print(
                f"| export pcapng; tshark copying the {what} | {own:.2f} s; {other:.2f} s,"
                f" {other / own:.2f} times as long | |"
            )
        fields = [word for one in FIELDS for word in ("-e", one)]
        printing = min(
            spent("tshark", "-n", "-r", events, "-T", "fields", *fields) for _ in range(2)
        )
        for what, target, *words in (
            ("finished traces", f"{LEAST} times", "paths", recording),
            ("all facts as JSON lines", "", "show", "--json", recording),
        ):
            own = min(spent(*iptrec, *words) for _ in range(3))
            print(
                f"| {what}; tshark printing four fields of the events | {own:.2f} s; {printing:.2f} s,"
                f" {printing / own:.0f} times as long | {target} |"
            )


if __name__ == "__main__":
    main()
