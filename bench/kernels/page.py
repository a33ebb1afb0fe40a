"""What pytest said in each guest, as a page: who passed where, and why others did not."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CHECKOUT: Final = f"{Path(__file__).resolve().parents[2]}/"  # of one machine
HEAD = """# Kernels

Written by `make kernels` (bench/kernels/run.py): the live tests of bench/kernels/tests.txt on Debian's kernels,
each in QEMU with the files of one host. An empty cell is a test that was not run; what was run more than once
(`--test`) is told as it was the last time. Of rules that change all the time an emulated processor is asked
whether each packet is told once and not wrongly; how much of it is unread, unsure or incomplete has no limit
there (IPTREC_SLOW): on 6.12 up to all of a run's packets met rules of which it had not got the text.
"""


@dataclass(frozen=True)
class Result:
    """A test's outcome, and why it is not "passed"."""

    outcome: str
    reason: str = ""


def results(directory: Path) -> dict[str, Result]:
    """By the test's name without its directory; empty where the guest did not get so far."""
    found = directory / "outcomes"
    lines = found.read_text().splitlines() if found.exists() else []
    told = [json.loads(line) for line in lines]
    return {
        one["test"].removeprefix("tests/live/"): Result(
            one["outcome"], one["reason"].replace(_CHECKOUT, "")
        )
        for one in told
    }


def summary(directory: Path) -> str:
    """One line, and one for each test that did not pass."""
    found = results(directory)
    counts = Counter(one.outcome for one in found.values())
    lines = [", ".join(f"{counts[one]} {one}" for one in ("passed", "failed", "skipped"))]
    if not found:
        lines = [f"ran no test: see {directory}/console and {directory}/output"]
    lines += [f"  {one.outcome} {name}: {one.reason}" for name, one in found.items() if one.reason]
    return "\n".join(lines)


def page(directory: Path) -> str:
    """All kernels that results are there of, the oldest first."""
    kernels = {
        (one / "kernel").read_text(): one
        for one in directory.iterdir()
        if (one / "kernel").exists()
    }
    kernels = dict(sorted(kernels.items(), key=lambda one: _version(one[0])))
    found = {release: results(one) for release, one in kernels.items()}
    parts = [HEAD, _table("", list(kernels), _counts(found))]
    parts += ["\n## Tests\n", _table("test", list(kernels), _tests(found))]
    parts += ["\n## Why not\n", *_reasons(found)]
    parts += ["\n## What they have\n", _table("", list(kernels), _parts(kernels))]
    return "\n".join(parts)


def _version(release: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", release)[:3]))


def _table(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = [[corner, *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _counts(found: dict[str, dict[str, Result]]) -> dict[str, list[str]]:
    counts = [Counter(one.outcome for one in of.values()) for of in found.values()]
    return {word: [str(one[word]) for one in counts] for word in ("passed", "failed", "skipped")}


def _tests(found: dict[str, dict[str, Result]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for of in found.values() for name in of)
    nothing = Result("")
    return {
        _quoted(name): [of.get(name, nothing).outcome for of in found.values()] for name in names
    }


def _reasons(found: dict[str, dict[str, Result]]) -> list[str]:
    kernels: dict[tuple[str, str, str], list[str]] = {}
    for release, of in found.items():
        for name, one in of.items():
            if one.reason:
                kernels.setdefault((one.outcome, name, one.reason), []).append(release)
    return [
        f"- {_quoted(name)} {outcome} on {', '.join(where)}: {_quoted(reason[:300])}"
        for (outcome, name, reason), where in kernels.items()
    ]


def _parts(kernels: dict[str, Path]) -> dict[str, list[str]]:
    """What inside found of the kernel's parts, one a line: the name, a tab, "yes" or "no"."""
    found = []
    for directory in kernels.values():
        said = directory / "parts"
        lines = said.read_text().splitlines() if said.exists() else []
        found.append(dict(line.split("\t") for line in lines))
    names = dict.fromkeys(name for of in found for name in of)
    return {name: [of.get(name, "") for of in found] for name in names}


def _quoted(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"
