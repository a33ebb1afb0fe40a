"""Tells what was recorded and whether it is as expected: outputs, a summary of the job, its status."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import iptrec

MOST = 5  # places that dropped something, in the summary
IPTREC = (sys.executable, "-m", "iptrec")


def main(given: Mapping[str, str]) -> int:
    """The status of the command, or 1 if something is not as expected; 2 if that cannot be told."""
    try:
        return report(given)
    except (iptrec.IptrecError, OSError) as trouble:
        error(str(trouble))
        return 2


def report(given: Mapping[str, str]) -> int:
    """Tell it; the status of the job. What was recorded is told even if it cannot be checked."""
    path = given["RECORDING"]
    checked = check(path, given["INPUT_EXPECTATIONS"], given["INPUT_JUNIT"])
    with iptrec.open(path) as recording:
        summary = recording.summary()
        shown = dict.fromkeys(first_of_each_place(recording))
    append(given["GITHUB_OUTPUT"], outputs(summary, checked))
    append(given["GITHUB_STEP_SUMMARY"], page(path, summary.verdicts, checked, shown))
    if checked is not None and checked.returncode:
        error(failure(checked))
    if (status := int(given["COMMAND_STATUS"])) != 0:
        error(f"the command ended with status {status}")
    if checked is not None and not is_known(checked):
        return 2
    return status or int(checked is not None and bool(checked.returncode))


def check(path: str, expectations: str, junit: str) -> "subprocess.CompletedProcess[str] | None":
    """What `iptrec check` said; None where nothing was expected."""
    if not expectations:
        return None
    words = [path, str(Path(expectations).absolute()), *([f"--junit={junit}"] if junit else [])]
    done = subprocess.run(
        [*IPTREC, "check", "--color=never", "--utc", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return done


def is_known(checked: "subprocess.CompletedProcess[str]") -> bool:
    """Whether `iptrec check` could tell if all is as expected."""
    return checked.returncode in (0, 1)


def failure(checked: "subprocess.CompletedProcess[str]") -> str:
    """The first expectation that fails, or why none could be checked."""
    if is_known(checked):
        return next(line for line in checked.stdout.splitlines() if not line.startswith("ok "))
    told = checked.stderr.splitlines() or [f"iptrec check ended with status {checked.returncode}"]
    return told[-1].removeprefix("iptrec: ")


def first_of_each_place(recording: iptrec.Recording) -> Iterator[int]:
    """The first packet that each rule or policy dropped or rejected, of as many as the summary has."""
    seen = set()
    for packet in recording.packets(verdict=("DROP", "REJECT")):
        if packet.decided_by not in seen:
            seen.add(packet.decided_by)
            yield packet.number
        if len(seen) == MOST:
            return


def outputs(
    summary: "iptrec.answers.summary.Summary", checked: "subprocess.CompletedProcess[str] | None"
) -> str:
    """A line each: none has anything of a packet or of an input."""
    verdicts = summary.verdicts
    found = {
        "packets": summary.packets,
        "accepted": verdicts.get("ACCEPT", 0),
        "dropped": verdicts.get("DROP", 0),
        "rejected": verdicts.get("REJECT", 0),
        "verdicts": json.dumps(verdicts, separators=(",", ":")),
        "lost": summary.lost,
        "expected": ""
        if checked is None or not is_known(checked)
        else json.dumps(checked.returncode == 0),
    }
    return "".join(f"{name}={value}\n" for name, value in found.items())


def page(
    path: str,
    verdicts: Mapping[str, int],
    checked: "subprocess.CompletedProcess[str] | None",
    shown: Mapping[int, None],
) -> str:
    """Markdown: the counts, the expectations, and why the first packets of each place were dropped."""
    name = re.sub(r"[^\w. -]", "?", Path(path).name)
    lines = [f"## {name}", "", "| verdict | packets |", "|---|---|"]
    lines += [f"| {verdict} | {count:,} |" for verdict, count in verdicts.items()] or [
        "| | no packet |"
    ]
    if checked is not None:
        told = (checked.stdout if is_known(checked) else failure(checked)).rstrip("\n")
        fence = "`" * (1 + max([2, *map(len, re.findall("`+", told))]))
        lines += ["", f"{fence}text", told, fence]
    for number in shown:
        words = ["why", "--markdown", "--utc", f"--packet={number}", "--", path]
        done = subprocess.run([*IPTREC, *words], stdout=subprocess.PIPE, text=True, check=False)
        lines += ["", done.stdout.rstrip("\n")]
    return "\n".join(lines) + "\n"


def append(path: str, text: str) -> None:
    """Add to a file of the runner's."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(text)


def error(text: str) -> None:
    """One annotation, as workflow commands are escaped."""
    for char, escaped in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(char, escaped)
    print(f"::error title=iptrec::{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(os.environ))
