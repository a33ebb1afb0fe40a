"""What each way out of a recording costs: processor time of whole commands, and memory at most.

usage: python bench/views.py trace.db

A packet is its events, rebuilt and judged, and then what is written of it. So two figures a format: of
the command as a whole, and of the writing alone, which is what remains without start and analysis.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scale import run

TARGETS = {"ndjson": 400_000, "pcapng": 800_000, "sqlite": 150_000, "parquet": 500_000}
RUNS = 3
SAMPLE = str(Path(__file__).parents[1] / "samples" / "docker_hairpin.db")


def cheapest(*arguments: str) -> tuple[float, int]:
    """CPU time (s) of iptrec with these arguments, and its memory at most (bytes)."""
    costs = [run(*arguments) for _ in range(RUNS)]
    return min(one.seconds for one in costs), max(one.memory for one in costs)


def started(*arguments: str) -> float:
    """Seconds from start to end."""
    found = []
    for _ in range(5):
        begun = time.perf_counter()
        run(*arguments)
        found.append(time.perf_counter() - begun)
    return min(found)


def main() -> None:
    """Measure."""
    recording = sys.argv[1]
    told = subprocess.run(
        [sys.executable, "-m", "iptrec", "info", "--json", recording], capture_output=True, check=True
    )  # fmt: skip
    facts = json.loads(told.stdout)
    events, packets = facts["events"], facts["packets"]
    start, _ = cheapest("show", SAMPLE)
    # A selection by the way that packets took: all are put together, none is shown.
    analysis, memory = cheapest("paths", recording)
    each = events / (analysis - start)
    print(f"| file to finished traces | {each:,.0f} events/s | 3,000,000 |")
    print(f"| memory of paths, {events:,} events | {memory / 1e6:.0f} MB | 400 MB |")
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        for kind, target in TARGETS.items():
            whole, memory = cheapest(
                "export", kind, recording, "--force", "-o", f"{directory}/{kind}"
            )
            alone = max(whole - analysis, 1e-3)
            print(
                f"| export {kind} | {packets / alone:,.0f} packets/s, {packets / (whole - start):,.0f} with the"
                f" analysis of {events / packets:.0f} events each | {target:,} packets/s |"
            )
            print(f"| memory of export {kind} | {memory / 1e6:.0f} MB | 400 MB |")
    for limit, arguments in ((0.15, ("show", SAMPLE)), (0.08, ("--help",))):
        words = " ".join(Path(one).name for one in arguments)
        print(f"| iptrec {words} | {started(*arguments) * 1e3:.0f} ms | {limit * 1e3:.0f} ms |")


if __name__ == "__main__":
    main()
