"""Where a view's text goes: a file or stdout, with or without colours."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

from iptrec.errors import RecordingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def opened(output: str) -> Iterator[TextIO]:
    """The file, or stdout for "-"."""
    if output == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123 - a name from the user
            yield file
    except OSError as error:
        raise RecordingError(f"cannot write {output}: {error.strerror}") from None


def colours(choice: str, stream: TextIO) -> bool:
    """--color auto|always|never and https://no-color.org."""
    if choice not in ("auto", "always", "never"):
        raise UsageError(f"--color {choice!r} is none of auto, always, never")
    return choice == "always" or (
        choice == "auto" and stream.isatty() and not os.environ.get("NO_COLOR")
    )
