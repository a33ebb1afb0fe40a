"""All benchmarks, one after the other: make bench. Writes RESULTS.md beside this file.

What a benchmark prints as rows of a table (| what | measured | target |) becomes one; its other lines
stay lines. All rows that have a target stand together at the top, and are printed once more in the end: a row
names the other program (tcpdump, nft monitor, tshark) whose figure is of the same run. A new benchmark is a new
line in `BENCHMARKS`. What hosts.py printed stays as it is: it takes half an hour, and programs that are not
everywhere.

It ends by itself wherever it is started: no benchmark reads a terminal or waits for a Ctrl-C that a job in the
background ignores, and one that takes longer than `LONGEST_S` is ended, with all that it started. The page says
so, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import os
import platform
import re
import signal
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
    ("Sharing", ("share.py", "{}")),
    ("Against tshark", ("export.py", "{}")),
    ("How cost grows", ("scale.py",)),
    ("A lake of many hosts", ("lake.py",)),
    ("Exactness", ("exact.py",)),
    ("Telling ends", ("ends.py",)),
    ("Rulesets", ("rulesets.py",)),
    ("Comparing rulesets", ("diff.py",)),
)
LONGEST_S = 1800
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
        f" Python {platform.python_version()}; {datetime.now(UTC):%Y-%m-%d}, load {os.getloadavg()[2]:.1f}"
    )


def section(title: str, lines: list[str]) -> str:
    """A benchmark's output as Markdown."""
    rows = [line for line in lines if line.startswith("|")]
    rest = [f"- {line}" for line in lines if line and not line.startswith("|")]
    table = HEAD + "\n".join(rows) + "\n" if rows else ""
    return f"\n## {title}\n\n" + "\n".join([*rest, *([""] if rest and rows else []), table])


def of_an_installation(directory: str) -> dict[str, str]:
    """The environment, but for what a developer's has: compiled modules are kept where iptrec is installed."""
    kept = {"XDG_CACHE_HOME": directory, "PYTHONPYCACHEPREFIX": f"{directory}/compiled"}
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | kept


def run(
    script: str, arguments: list[str], environment: dict[str, str] | None = None
) -> tuple[list[str], str]:
    """The lines that a benchmark printed, and why it failed ("" if it did not)."""
    command = [sys.executable, str(HERE / script), *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=LONGEST_S)
            failed = f"exit status {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            failed = f"not done after {LONGEST_S} s"
        except BaseException:  # Ctrl-C is for the session that it was typed in
            os.killpg(process.pid, signal.SIGTERM)
            raise
    return printed.splitlines(), failed


def targets(sections: dict[str, list[str]]) -> list[str]:
    """The rows that have a target, each with the title of its section."""
    found = []
    for title, lines in sections.items():
        for line in lines:
            cells = [one.strip() for one in line.strip("|").split("|")]
            if line.startswith("|") and cells[-1]:
                found.append(f"| {title}: {' | '.join(cells)} |")
    return found


def apart(page: str) -> str:
    """The section of the old page that is not made here."""
    found = re.search(re.escape(APART) + r".*?(?=\n## |\n!\[|\Z)", page, re.DOTALL)
    return found[0] if found else ""


def main() -> int:
    """Run all; the exit status."""
    results = HERE / "RESULTS.md"
    sections: dict[str, list[str]] = {}
    failures = []
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        environment = of_an_installation(directory)
        for title, (script, *words) in BENCHMARKS:
            arguments = [one.format(f"{directory}/bench.db") for one in words]
            lines, failed = run(script, arguments, environment)
            if failed:
                failures.append(f"{script}: {failed}")
                lines.append(failures[-1])
            print(*lines, sep="\n", flush=True)
            sections[title] = lines
    page = [
        f"# Figures\n\nWhat `make bench` printed on {machine()}. Ratios travel, seconds do not.\n",
        section("Targets", found := targets(sections)),
        *(section(title, lines) for title, lines in sections.items()),
        apart(results.read_text()),
        "\n![Cost against events](scale.svg)\n",
    ]
    results.write_text("".join(page))
    print(*found, *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
