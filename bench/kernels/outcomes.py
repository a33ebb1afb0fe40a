"""A plugin of pytest's: each test's outcome as a line of JSON, as soon as it is known.

A guest whose time is up has told of those that came to their end.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def pytest_runtest_logreport(report) -> None:  # noqa: ANN001
    """Keep what a test did, and why it did not pass."""
    if report.when == "call" or not report.passed:
        line = {"test": report.nodeid, "outcome": report.outcome, "reason": _reason(report)}
        with Path(os.environ["OUTCOMES"]).open("a") as out:
            out.write(json.dumps(line) + "\n")


def _reason(report) -> str:  # noqa: ANN001
    """The message of a skip; the last line of a failure that pytest marks, or of a first try."""
    if report.passed:
        first = dict(report.user_properties).get("tried again")
        return "" if first is None else f"at the second try: {first}"
    if report.skipped:
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join((crash.message if crash else report.longreprtext).split())
