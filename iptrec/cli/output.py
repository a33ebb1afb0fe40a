"""Where a view's text goes: a file or stdout, with or without colours."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from iptrec.errors import RecordingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXIT_PIPE: Final = 141  # what a shell says of a program that SIGPIPE (13) ended: 128 + 13


@contextlib.contextmanager
def opened(output: str, recording: str) -> Iterator[TextIO]:
    """The file, or stdout for "-"; never the recording itself, which is evidence."""
    if output == "-":
        with _stdout():
            yield sys.stdout
            sys.stdout.flush()
        return
    try:
        if Path(output).exists() and Path(output).samefile(recording):
            raise UsageError(f"--output {output} is the recording itself; choose another file")
        with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123 - a name from the user
            yield file
    except OSError as error:
        raise RecordingError(f"cannot write {output}: {error.strerror}") from None


@contextlib.contextmanager
def _stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is still in the buffer cannot be written either when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as head closes it; there is nothing to be said
            raise SystemExit(_EXIT_PIPE) from None
        raise RecordingError(f"cannot write to stdout: {error.strerror}") from None


def colours(choice: str, output: str) -> bool:
    """--color auto|always|never and https://no-color.org."""
    if choice not in ("auto", "always", "never"):
        raise UsageError(f"--color {choice!r} is none of auto, always, never")
    if choice == "auto":
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return output == "-" and sys.stdout.isatty() and not plain
    return choice == "always"
