"""All benchmarks, one after the other: make bench. Writes RESULTS.md beside this file.

What a benchmark prints as rows of a table (| what | measured | target |) becomes one; its other lines
stay lines. A new benchmark is a new line in `BENCHMARKS`. What hosts.py printed stays as it is: it takes half
an hour, and programs that are not everywhere.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
# (title, script and its arguments); {} is a recording that the first one makes.
BENCHMARKS = (
    ("Recording", ("record.py", "5", "{}")),
    ("Recording, against tcpdump", ("tcpdump.py",)),
    ("Recording nf_tables, against nft monitor", ("nft.py",)),
    ("Waiting", ("idle.py",)),
    ("Packets that are told while they are recorded", ("live.py",)),
    ("Asking the kernel about packets that vanish", ("asked.py",)),
    ("What the host feels", ("forward.py",)),
    ("Drops", ("drops.py",)),
    ("Who sends", ("senders.py",)),
    ("Analysis", ("analyze.py", "{}")),
    ("Ways out", ("views.py", "{}")),
    ("Against tshark", ("export.py", "{}")),
    ("How cost grows", ("scale.py",)),
    ("Exactness", ("exact.py",)),
    ("Telling ends", ("ends.py",)),
    ("Rulesets", ("rulesets.py",)),
    ("Comparing rulesets", ("diff.py",)),
)
APART = "\n## Real hosts\n"
HEAD = "| what | measured | target |\n|---|---|---|\n"


def machine() -> str:
    """The machine's facts."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {os.cpu_count()} processors, {memory:.0f} GiB; Linux {platform.release()};"
        f" Python {platform.python_version()}; {datetime.now(UTC):%Y-%m-%d}"
    )


def section(title: str, lines: list[str]) -> str:
    """A benchmark's output as Markdown."""
    rows = [line for line in lines if line.startswith("|")]
    rest = [f"- {line}" for line in lines if line and not line.startswith("|")]
    table = HEAD + "\n".join(rows) + "\n" if rows else ""
    return f"\n## {title}\n\n" + "\n".join([*rest, *([""] if rest and rows else []), table])


def apart(page: str) -> str:
    """The section of the old page that is not made here."""
    found = re.search(re.escape(APART) + r".*?(?=\n## |\n!\[|\Z)", page, re.DOTALL)
    return found[0] if found else ""


def main() -> None:
    """Run all."""
    results = HERE / "RESULTS.md"
    page = [
        f"# Figures\n\nWhat `make bench` printed on {machine()}. Ratios travel, seconds do not.\n"
    ]
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        for title, (script, *arguments) in BENCHMARKS:
            command = [sys.executable, str(HERE / script)]
            command += [one.format(f"{directory}/bench.db") for one in arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout, end="", flush=True)
            page.append(section(title, done.stdout.splitlines()))
    page.append(apart(results.read_text()))
    page.append("\n![Cost against events](scale.svg)\n")
    results.write_text("".join(page))


if __name__ == "__main__":
    main()
