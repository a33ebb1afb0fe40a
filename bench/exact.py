"""100,000 packets from two sides, five times: how many traces are wrong?

usage: python bench/exact.py [RUNS] [PACKETS]

A rule or policy that was not hit as often as the kernel counted, a trace with events of two packets, an
incomplete or ambiguous one and a lost event are each counted; all should be 0.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / one) for one in ("tests", "tests/live")]

import ground_truth

from iptrec.demo.lab import Lab


def main() -> None:
    """Measure."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    packets = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000  # noqa: PLR2004
    for run in range(1, runs + 1):
        with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
            lab.ip(None, "link set lo up")
            truth = ground_truth.run(lab, Path(directory, "t.db"), packets)
        print(
            f"exact, run {run}: {truth.packets:,} packets; {len(truth.differing)} counters differ,"
            f" {truth.mixed} traces mixed, {truth.incomplete} incomplete, {truth.ambiguous} ambiguous,"
            f" {truth.lost} events lost"
        )


if __name__ == "__main__":
    main()
