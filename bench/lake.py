"""A lake of generated hosts: what its export and each question cost, by each engine, at 10^5 to 10^7 steps.

usage: python bench/lake.py [MOST [PLOT.svg]]

Two real recordings, of a host that drops a flood and of one that takes it, become those of a hundred: each with
another name, other addresses and a later time, the same ones in each run (SEED). MOST: steps; 100000000 of them
take 10 GB of $TMPDIR. An engine that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import scale
import zstandard
from plot import Panel, draw
from record import RULES
from says import until_it_says

from iptrec.api import open as open_recording
from iptrec.demo.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES: Final = (100_000, 1_000_000, 10_000_000, 100_000_000)
USUAL: Final = 10_000_000
HOSTS: Final = 100
ENGINES: Final = {"duckdb": "duckdb", "clickhouse": "chdb", "spark": "pyspark"}
PACKETS: Final = 7_000  # of a base; each goes out and in again, 14 steps
SEED: Final = 21
DAYS: Final = 7  # over which the hosts are spread
_DAY_S: Final = 24 * 3600
_SAME: Final = (
    4  # as many pairs of hosts have other sources, 256 each; the next ones have the same again
)
# Something listens, or the first packet that is not dropped would be answered with an error.
FLOOD: Final = f"import socket\nhere = socket.socket(type=2)\nhere.bind(('', 9))\n{scale.FLOOD}"
# Run by a small process: what a command takes at most is no less than what has started it.
_MEASURE: Final = """\
import json, os, sys, time
begun = time.perf_counter()
child = os.fork()
if not child:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
elapsed = time.perf_counter() - begun
print(json.dumps([os.waitstatus_to_exitcode(status), elapsed, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
_ENDS: Final = re.compile(re.escape(bytes([127, 0, 0, 1, 127, 0, 0, 1])))
_STAMP: Final = re.compile(
    b"\\x14\\x00\\x03\\x00\\x00\\x00\\x00\\x00(?=....\\x00\\x00\\x00\\x00)", re.DOTALL
)
_IDENTIFICATION: Final = 8  # bytes before the addresses of IPv4
_QUESTIONS: Final = {
    "drops": (), "unhit": (), "differing": (), "changed": ("time={middle}", "times=1"), "talkers": (),
    "packet": ("recording={recording}", "packet=100"), "incomplete": (),
}  # fmt: skip


def record(output: Path, rules: str) -> None:
    """Record a flood under these rules."""
    with Lab() as lab:
        lab.ip(None, "link set lo up")
        lab.restore(None, "ipv4", rules)
        command = [
            sys.executable,
            "-m",
            "iptrec",
            "record",
            "udp",
            "--drops",
            "no",
            "--force",
            "-o",
            output,
        ]
        recorder = lab.popen([*map(str, command)], stderr=subprocess.PIPE)
        until_it_says(b"recording to", recorder)
        lab.run([sys.executable, "-c", FLOOD, str(PACKETS)], timeout=600)
        recorder.terminate()
        recorder.communicate(timeout=60)


def generated(base: Path, output: Path, number: int, later_s: int) -> None:
    """Write a base as the recording of another host."""
    shutil.copyfile(base, output)
    later_ns = later_s * 10**9
    with closing(sqlite3.connect(output)) as connection:
        connection.executescript("PRAGMA journal_mode = off; PRAGMA synchronous = off")
        chunks = connection.execute(
            "SELECT chunk.id, size, data, kind FROM chunk JOIN stream ON stream.id = stream"
        ).fetchall()
        for chunk, size, data, kind in chunks:
            if kind == "nflog":
                raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
                new = zstandard.ZstdCompressor(level=1).compress(_moved(raw, number, later_s))
                connection.execute("UPDATE chunk SET data = ? WHERE id = ?", (new, chunk))
        for table, columns in (
            ("recording", ("started_ns", "stopped_ns")), ("chunk", ("first_ns", "last_ns")),
            ("snapshot", ("time_ns", "after_ns")), ("loss", ("first_ns", "last_ns")),
        ):  # fmt: skip
            moved = ", ".join(f"{one} = {one} + {later_ns}" for one in columns)
            connection.execute(f"UPDATE {table} SET {moved}")  # noqa: S608 - our own names
        connection.execute("UPDATE recording SET host = ?", (f"node{number:04}",))
        connection.commit()


def _moved(raw: bytes, number: int, later_s: int) -> bytes:
    """Datagrams with other addresses, their sources by the packets' ids, and later stamps."""
    found = np.frombuffer(raw, np.uint8).copy()
    at = np.array([one.start() for one in _ENDS.finditer(raw)], np.int64)
    found[at], found[at + 1] = 10, number // 2 % _SAME
    found[at + 2] = 0
    found[at + 3] = found[at - _IDENTIFICATION + 1]
    found[at[:, None] + np.arange(4, 8)] = np.array([192, 0, 2, 1], np.uint8)
    stamps = np.array([one.start() + 8 for one in _STAMP.finditer(raw)], np.int64)
    if len(stamps):
        seconds = stamps[:, None] + np.arange(4)
        later = found[seconds].copy().view(">u4") + later_s
        found[seconds] = later.astype(">u4").view(np.uint8)
    return found.tobytes()


def hosts(bases: list[Path], directory: Path, count: int) -> Iterator[Path]:
    """So many recordings, of as many hosts or of a hundred, no two begun at once."""
    chance = random.Random(SEED)  # noqa: S311 - the same hosts each time
    later = chance.sample(range(DAYS * _DAY_S), 10_000)
    for number in range(count):
        path = directory / f"{number:04}.db"
        if not path.exists():
            generated(bases[number % len(bases)], path, number % HOSTS, later[number])
        yield path


def run(*words: str) -> tuple[float, float, int]:
    """Seconds, seconds of the processor, and bytes of memory at most, that a command takes."""
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, sys.executable, "-m", "iptrec", *words]
    status, elapsed, cpu, memory = json.loads(subprocess.run(command, stdout=-1, check=True).stdout)
    if status not in ((0, 1) if "incomplete" in words else (0,)):
        raise SystemExit(f"iptrec {' '.join(words[:4])} ended with {status}")
    return elapsed, cpu, memory * 1024


def size_of(directory: Path) -> int:
    """The bytes of all files."""
    return sum(one.stat().st_size for one in directory.rglob("*") if one.is_file())


def questions(lake: Path, steps: int, middle: int) -> Iterator[tuple[str, float, int]]:
    """Ask each one by each engine: the engine, seconds of the processor, and bytes of memory at most."""
    known = next((lake / "recordings").rglob("*.parquet")).name.rpartition("-")[0]
    for engine, package in ENGINES.items():
        if importlib.util.find_spec(package) is None:
            continue
        for question, words in _QUESTIONS.items():
            filled = [one.format(middle=middle, recording=known) for one in words]
            elapsed, cpu, memory = run(
                "lake", question, str(lake), *filled, "-q", "--engine", engine
            )
            print(
                f"| lake: {question} by {engine}, {steps:,} steps | {elapsed:.2f} s, {cpu:.2f} s of CPU,"
                f" {memory / 1e6:.0f} MB | |",
                flush=True,
            )
            yield engine, cpu, memory


def drawn(found: dict[str, list[tuple[int, float, int]]]) -> str:
    """A plot of (steps, seconds of the processor, bytes) by who took them."""
    return draw(
        Panel(
            "seconds of CPU, seven questions; export",
            {name: [(steps, cpu) for steps, cpu, _ in some] for name, some in found.items()},
            "steps",
        ),
        Panel(
            "memory at most, MB",
            {
                name: [(steps, most / 1e6) for steps, _, most in some]
                for name, some in found.items()
            },
            "steps",
        ),
    )


def main() -> None:
    """Measure."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else USUAL
    found: dict[str, list[tuple[int, float, int]]] = {}
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as name:
        directory = Path(name)
        bases = [directory / "drops.base", directory / "takes.base"]
        rules = RULES.replace(
            "-A INPUT", "-A INPUT -p tcp -j DROP\n-A INPUT", 1
        )  # one that nothing hits
        record(bases[0], rules)
        record(bases[1], rules.replace("-A INPUT -p udp -j DROP", "-A INPUT -p udp -j ACCEPT"))
        with open_recording(bases[0]) as recording:
            ((steps,),) = recording.query("SELECT count(*) FROM steps")
            middle = recording.facts.started_ns + DAYS * _DAY_S * 10**9 // 2
        for size in (one for one in SIZES if one <= most):
            paths = list(hosts(bases, directory, max(2, round(size / steps))))
            lake = directory / f"lake{size}"
            elapsed, cpu, memory = run("export", "parquet", f"{lake}/", "-q", *map(str, paths))
            exact, of = len(paths) * steps, min(len(paths), HOSTS)
            print(
                f"| lake: export, {exact:,} steps of {of} hosts | {elapsed:.1f} s, {cpu:.1f} s of CPU:"
                f" {exact / cpu:,.0f} steps/s; {memory / 1e6:.0f} MB; {size_of(lake) / exact:.1f} bytes a step"
                " | 400,000 steps/s |",
                flush=True,
            )
            found.setdefault("export", []).append((exact, cpu, memory))
            elapsed, cpu, _ = run("export", "parquet", f"{lake}/", "-q", *map(str, paths))
            print(f"| lake: the same again | {elapsed:.1f} s, {cpu:.1f} s of CPU | |", flush=True)
            totals: dict[str, tuple[float, int]] = {}
            for engine, cpu, memory in questions(lake, exact, middle):
                all_cpu, highest = totals.get(engine, (0.0, 0))
                totals[engine] = all_cpu + cpu, max(highest, memory)
            for engine, (all_cpu, highest) in totals.items():
                found.setdefault(engine, []).append((exact, all_cpu, highest))
            if len(sys.argv) > 2:  # noqa: PLR2004 - the name of a plot
                Path(sys.argv[2]).write_text(drawn(found))
            shutil.rmtree(lake)


if __name__ == "__main__":
    main()
