"""How fast a recording becomes traces: decoded and reconstructed, as `show --json` does, not printed.

usage: python bench/analyze.py trace.db [RUNS]

Prints events, seconds and events/s of each run, and what one core does in the same minute with plain
decompression of the same chunks, so that the figure can be compared between machines.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from iptrec.packets import several
from iptrec.packets.window import windows
from iptrec.recording.reader import Reader


def main() -> None:
    """Measure."""
    path = sys.argv[1]
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3  # noqa: PLR2004
    analysed, decompressed = [], []
    for _ in range(runs):
        with Reader(path) as reader:
            started = time.perf_counter()
            read = sum(len(chunk.lengths) for chunk in reader.chunks())
            reading = time.perf_counter() - started
            started = time.perf_counter()
            events = packets = incomplete = ambiguous = 0
            for window in windows(reader):
                decided = window.decided
                complete = [one.complete for one in window.assembly.outcomes]
                events += len(window.rows())
                packets += decided
                incomplete += sum(not complete[i] for i in window.assembly.outcome[:decided])
                doubt = [one.doubt is not None for one in window.assembly.outcomes]
                ambiguous += sum(doubt[i] for i in window.assembly.outcome[:decided])
            whole = time.perf_counter() - started
        analysed.append(whole)
        decompressed.append(reading)
        print(
            f"analyze: {events} events of {read}, {packets} packets ({incomplete} incomplete,"
            f" {ambiguous} ambiguous) in {whole:.2f} s: {events / whole:,.0f} events/s;"
            f" reading alone {read / reading:,.0f} events/s"
        )
    both = min(_by_processes(path) for _ in range(runs))
    best = min(analysed)
    print(
        f"| file to finished traces, against reading alone | {events / best:,.0f} events/s,"
        f" {best / min(decompressed):.1f} times as long | 3.5 times as long |"
    )
    print(
        f"| with two processes (--jobs 2), against one | {best / both:.2f} times as fast | 1.7 times"
        " as fast |"
    )


def _by_processes(path: str) -> float:
    """Seconds that two processes take."""
    started = time.perf_counter()
    with Reader(path) as reader:
        found = several.windows(
            reader, jobs=2, reopen=partial(Reader, path), sizes=reader.chunk_sizes
        )
        for _ in found:
            pass
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
