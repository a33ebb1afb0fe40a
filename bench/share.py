"""What it costs to share a recording: the page, the redacted one, the pack; each against reading all packets.

usage: python bench/share.py trace.db

Reading is `iptrec show --json` of the same recording in the same run: processor time of whole commands, the
best of some runs. Redacting and packing take each event apart or compress it once more, so the targets are
ratios; and the size of a pack, which trackers limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scale import run

RUNS = 2
MEMORY = 500  # MB
# (what is measured, its arguments, at most so many times as long as reading)
WAYS = (
    ("report", ("report", "{}", "--force", "-q", "-o", "{}/r.html"), 3),
    ("redact", ("redact", "{}", "--force", "-q", "-o", "{}/r.db"), 12),
    ("redact --check", ("redact", "{}", "--force", "-q", "--check", "-o", "{}/c.db"), 18),
    ("pack", ("pack", "{}", "--force", "-q", "-o", "{}/p.zip"), 8),
    ("pack --verdict DROP", ("pack", "{}", "--force", "-q", "--verdict", "DROP", "-o", "{}/d.zip"), 12),
    ("pack --redact", ("pack", "{}", "--force", "-q", "--redact", "-o", "{}/s.zip"), 16),
)  # fmt: skip


def cheapest(*arguments: str) -> tuple[float, int]:
    """CPU time (s) of iptrec with these arguments, and its memory at most (bytes)."""
    costs = [run(*arguments) for _ in range(RUNS)]
    return min(one.seconds for one in costs), max(one.memory for one in costs)


def main() -> None:
    """Measure."""
    recording = sys.argv[1]
    told = subprocess.run(
        [sys.executable, "-m", "iptrec", "info", "--json", recording], capture_output=True, check=True
    )  # fmt: skip
    events = json.loads(told.stdout)["events"]
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        reading, _ = cheapest("show", "--json", recording)
        print(
            f"show --json of {events:,} events: {reading:.1f} s of CPU; load {os.getloadavg()[0]:.1f}"
        )
        for name, words, most in WAYS:
            paths = iter((recording, directory))
            arguments = [one.format(next(paths)) if "{}" in one else one for one in words]
            seconds, memory = cheapest(*arguments)
            print(f"| {name}, against reading | {seconds / reading:.1f} | {most} |")
            print(f"| memory of {name} | {memory / 1e6:.0f} MB | {MEMORY} MB |")
        size = Path(directory, "p.zip").stat().st_size
        print(f"| a pack of a million events | {size / events:.1f} MB | 25 MB |")


if __name__ == "__main__":
    main()
