"""``record --stop-on``: a process of its own looks at the recording while it grows.

The recorder has no time for that. It is told by a pipe: something can be read from it when the first packet
fits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from iptrec.cli import selection as which
from iptrec.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


class Lookout:
    """Looks for the first packet that fits; a context manager. ``descriptor``: None if there is nothing to do.

    Raises `UsageError` for an expression that cannot be meant.
    """

    def __init__(self, output: Path, expression: str | None) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._writing = -1
        self.descriptor: int | None = None
        if expression is not None:
            conditions, words = options(expression)
            show = sys.executable, "-m", "iptrec", "show", "--follow", "--json", "--quiet"
            self._command = [*show, *conditions, "--", str(output), *words]
            self.descriptor, self._writing = os.pipe2(os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.terminate()
            self._child.wait()
        for descriptor in (self._writing, self.descriptor):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)

    def start(self) -> None:
        """Begin to look, once; the file has to be there."""
        if self._child is None and self.descriptor is not None:
            self._child = subprocess.Popen(
                self._command,
                stdout=self._writing,
                stderr=subprocess.DEVNULL,
                preexec_fn=_in_background,  # noqa: PLW1509 - there are no threads yet
            )
            os.close(self._writing)
            self._writing = -1


def _in_background() -> None:
    """Ctrl-C is the recorder's to answer, and the events come first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)


def options(expression: str) -> tuple[list[str], list[str]]:
    """The options of `iptrec show`, and the filter, that an expression stands for."""
    from iptrec.decode.pcapfilter import PacketFilter

    verdicts: list[str] = []
    rules: list[str] = []
    words: list[str] = []
    for word in expression.split():
        if word.isupper() and word.isalpha() and not words:
            verdicts.append(which.verdict(word))
        elif word.count("/") > 1 and not words:
            which.rule(word)
            rules.append(word)
        else:
            words.append(word)
    if not (verdicts or rules or words):
        raise UsageError("--stop-on is empty: give a verdict, a rule or a filter")
    if words:
        PacketFilter(" ".join(words))
    found = ["--verdict", ",".join(verdicts)] if verdicts else []
    found += ["--rule", ",".join(rules)] if rules else []
    return found, words
