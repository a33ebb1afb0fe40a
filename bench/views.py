"""What each way out of a recording costs: processor time of whole commands, and memory at most.

usage: python bench/views.py trace.db

A packet is its events, rebuilt and judged, and then what is written of it. So two figures a format: of
the command as a whole, and of the writing alone, which is what remains without start and analysis. Beside
them stands what cannot be less: SQLite copying the same tables by itself, and Python with numpy and an open
database.
"""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from scale import run

TARGETS = {"ndjson": 400_000, "pcapng": 800_000, "sqlite": 150_000, "parquet": 500_000}
RUNS = 3
FLOOR = "import sqlite3, sys, numpy; sqlite3.connect(sys.argv[1]).execute('PRAGMA schema_version')"
SAMPLE = str(Path(__file__).parents[1] / "samples" / "docker_hairpin.db")


def cheapest(*arguments: str) -> tuple[float, int]:
    """CPU time (s) of iptrec with these arguments, and its memory at most (bytes)."""
    costs = [run(*arguments) for _ in range(RUNS)]
    return min(one.seconds for one in costs), max(one.memory for one in costs)


def started(*arguments: str) -> float:
    """Seconds from start to end of Python with these arguments."""
    found = []
    for _ in range(15):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - begun)
    return min(found)


def copied(exported: str, output: str) -> float:
    """CPU time (s) that SQLite takes to insert the rows of a database into another one, and for its indexes."""
    Path(output).unlink(missing_ok=True)
    with closing(sqlite3.connect(output, isolation_level=None)) as made:
        made.execute("ATTACH ? AS source", [exported])
        made.execute("PRAGMA main.journal_mode = OFF")
        made.execute("PRAGMA main.synchronous = OFF")
        made.execute("PRAGMA main.cache_size = -32768")  # KiB, as the command has it
        of_kind = "SELECT name, sql FROM source.sqlite_schema WHERE type = ? AND sql NOT NULL"
        tables, indexes = (made.execute(of_kind, [one]).fetchall() for one in ("table", "index"))
        for _, definition in tables:
            made.execute(definition)
        before = resource.getrusage(resource.RUSAGE_SELF)
        made.execute("BEGIN")
        for name, _ in tables:
            # With an order SQLite inserts row by row; without one it may copy whole pages.
            rows = f"SELECT * FROM source.{name} ORDER BY rowid"  # noqa: S608 - a name of ours
            made.execute(f"INSERT INTO main.{name} {rows}")
        for _, definition in indexes:
            made.execute(definition)
        made.execute("COMMIT")
        after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure."""
    recording = sys.argv[1]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode
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
        floor = min(copied(f"{directory}/sqlite", f"{directory}/copy") for _ in range(RUNS))
        print(f"| SQLite copying the rows of export sqlite | {packets / floor:,.0f} packets/s | |")
    print(f"| Python, numpy, an open database | {started('-c', FLOOR, SAMPLE) * 1e3:.0f} ms | |")
    for limit, arguments in ((0.15, ("show", SAMPLE)), (0.08, ("--help",))):
        words = " ".join(Path(one).name for one in arguments)
        print(
            f"| iptrec {words} | {started('-m', 'iptrec', *arguments) * 1e3:.0f} ms | {limit * 1e3:.0f} ms |"
        )


if __name__ == "__main__":
    main()
