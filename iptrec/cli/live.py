"""What `record` and `trace` say on stderr: when they are ready, how far they are, what came of it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

from iptrec.errors import IptrecError, UsageError
from iptrec.names import counted

if TYPE_CHECKING:
    from pathlib import Path

    from rich.live import Live as LiveLine

    from iptrec.recorder.options import Progress

LEVELS: Final = ("error", "warning", "info", "debug")
WARNING, INFO, DEBUG = 1, 2, 3


def levels(name: str, *, verbose: bool, quiet: bool) -> int:
    """The place of a name in `LEVELS`; of -v and -q theirs."""
    name = "warning" if name == "warn" else name
    if name not in LEVELS:
        raise UsageError(f"--log-level {name!r}: must be one of {', '.join(LEVELS)}")
    return DEBUG if verbose else 0 if quiet else LEVELS.index(name)


class Live:
    """The live line of a terminal; off a terminal, or without ``line``, one when recording begins.

    ``doing``: what is being done, for that line. ``ready``: events are recorded.
    """

    def __init__(self, command: str, level: int, doing: str, *, line: bool) -> None:
        self._command, self._level, self._doing = command, level, doing
        # Where it is of use alone: loading it takes as long as putting TRACE rules in place.
        self._live = _live_line() if line and sys.stderr.isatty() else None
        self.ready = False
        self._begun = False
        self._printed = 0

    def __call__(self, progress: Progress) -> None:
        """Tell how far it is."""
        self._tell_notes(progress)
        if not self.ready or self._level < INFO:
            return
        if not self._begun:
            self._begin()
        if self._live is not None:
            self._refresh(self._live, progress)

    def end(self) -> None:
        """Let go of the terminal."""
        if self._live is not None:
            self._live.stop()

    def report(self, outcome: Progress) -> None:
        """What came of it, in a line for each kind of it."""
        self.tell_end(outcome)
        if self._level >= INFO:
            lost = f"{outcome.lost:,} lost" if outcome.lost else "none lost"
            print(
                f"recorded {counted(outcome.events, 'event')} ({lost}),"
                f" {counted(outcome.file_bytes, 'byte')}:"
                f" {outcome.written_to or self._doing.removeprefix('recording to ')}",
                file=sys.stderr,
            )

    def tell(self, text: str) -> None:
        """A line on what came of it, if there is one."""
        from iptrec.views.escape import printable

        if text and self._level >= INFO:
            print(printable(text), file=sys.stderr)

    def tell_nothing(self, outcome: Progress, path: Path) -> None:
        """Where nothing was recorded: what the reason may be."""
        if outcome.events or self._level < INFO:
            return
        from iptrec.answers.nothing import nothing
        from iptrec.recording.reader import Reader

        with contextlib.suppress(IptrecError), Reader(path) as reader:
            if found := nothing(reader):
                self.tell(f"{found.fact}; likely causes:")
                for cause in found.causes:
                    self.tell(f"  {cause}")

    def tell_end(self, outcome: Progress) -> None:
        """Details and notes that were not told yet."""
        for detail in outcome.details if self._level >= DEBUG else []:
            print(self._note(detail), file=sys.stderr)
        self._tell_notes(outcome)

    def _begin(self) -> None:
        self._begun = True
        if self._live is not None:
            self._live.start()
        else:
            # One line that scripts can wait for.
            said = f"{self._doing} (pid {os.getpid()}); Ctrl-C to stop"
            print(said, file=sys.stderr, flush=True)

    def _refresh(self, line: LiveLine, progress: Progress) -> None:
        from rich.text import Text

        rate = progress.events / max(progress.elapsed_ns, 1) * 1e9
        line.update(
            Text(
                f"{counted(progress.events, 'event')}  {rate:,.0f}/s  {progress.file_bytes:,} bytes"
                f"  {progress.lost:,} lost  (Ctrl-C to stop)"
            ),
            refresh=True,
        )

    def _tell_notes(self, progress: Progress) -> None:
        """Those that are new; they scroll up above the live line."""
        for note in progress.notes[self._printed :] if self._level >= WARNING else []:
            if self._live is None:
                print(self._note(note), file=sys.stderr, flush=True)
            else:
                self._live.console.print(
                    self._note(note), markup=False, highlight=False, soft_wrap=True
                )
        self._printed = len(progress.notes)

    def _note(self, text: str) -> str:
        from iptrec.views.escape import printable

        return f"iptrec {self._command}: {printable(text)}"


def _live_line() -> LiveLine:
    from rich.console import Console
    from rich.live import Live as LiveLine

    return LiveLine(console=Console(stderr=True), auto_refresh=False, transient=True)
