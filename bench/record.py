"""Sustained recording: a flood over loopback through a dozen rules, for some seconds.

usage: python bench/record.py [SECONDS] [OUTPUT]

Prints events sent (recorded + lost, by the kernel's own numbering), the rate, the recorder's CPU time an
event and the file's bytes an event. Both cores are busy: one sends and forwards, one records.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from says import until_it_says

from iptrec.demo.lab import Lab

if TYPE_CHECKING:
    import resource

RULES = """\
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
# As fast as one core can (sendmmsg would be no faster: the kernel's work for a traced packet outweighs
# the call). The payload is noise, so that the file's size is that of traffic which does not compress;
# only the events of one packet have it in common.
FLOOD = """\
import os, socket, sys, time
noise = os.urandom(1 << 20)
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect(("127.0.0.1", 9))
end = time.monotonic() + float(sys.argv[1])
at = 0
while time.monotonic() < end:
    for _ in range(100):
        at = (at + 191) % 1000003
        out.send(noise[at : at + 100])
"""


def main() -> None:
    """Measure."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        output = sys.argv[2] if len(sys.argv) > 2 else f"{directory}/bench.db"  # noqa: PLR2004
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", RULES)
        command = [sys.executable, "-m", "iptrec", "record", "udp", "--force", "-o", output]
        recorder = lab.popen(command, stderr=subprocess.PIPE)
        until_it_says(b"recording to", recorder)
        lab.run([sys.executable, "-c", FLOOD, str(seconds)], timeout=seconds + 60)
        recorder.terminate()
        _, status, usage = os.wait4(recorder.pid, 0)
        recorder.returncode = os.waitstatus_to_exitcode(status)
        recorder.stderr.close()
        report(output, seconds, usage)


def report(output: str, seconds: float, usage: resource.struct_rusage) -> None:
    """Print the figures."""
    info = [sys.executable, "-m", "iptrec", "info", "--json", output]
    done = subprocess.run(info, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    events, lost = facts["events"], facts["lost"]
    cpu = usage.ru_utime + usage.ru_stime
    size = Path(output).stat().st_size
    print(
        f"record: {events + lost:,} events sent in {seconds:g} s ({(events + lost) / seconds:,.0f}/s),"
        f" {lost:,} lost; recorder {cpu / events * 1e6:.2f} us of CPU an event, file"
        f" {size / events:.1f} bytes an event; {facts['packets']:,} packets,"
        f" {facts['incomplete']:,} incomplete, {facts['ambiguous']:,} ambiguous"
    )


if __name__ == "__main__":
    main()
