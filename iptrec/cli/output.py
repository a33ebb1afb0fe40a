"""Where a view's text goes: a file or stdout, with or without colours."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TextIO

from iptrec.errors import RecordingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.reader import Reader

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
def exported(output: str, recording: str, *, force: bool) -> Iterator[BinaryIO]:
    """A stream of bytes to a file, which is there whole or not at all; or to stdout for "-"."""
    if output == "-":
        if sys.stdout.isatty():
            raise UsageError("--output - would write bytes to the terminal; use a pipe or a file")
        with _stdout():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    with replaced(output, recording, force=force) as path, path.open("wb") as file:
        yield file


@contextlib.contextmanager
def built(output: str, recording: str, *, force: bool) -> Iterator[Path]:
    """As `exported`, for a file that cannot be written as a stream: a path where it is to be made."""
    if output != "-" and (Path(output).is_file() or not Path(output).exists()):
        with replaced(output, recording, force=force) as path:
            yield path
        return
    with (
        exported(output, recording, force=force) as stream,
        tempfile.TemporaryDirectory(prefix="iptrec-", ignore_cleanup_errors=True) as directory,
    ):
        made = Path(directory) / "made"
        yield made
        with made.open("rb") as file:
            shutil.copyfileobj(file, stream)


@contextlib.contextmanager
def replaced(output: str, recording: str, *, force: bool) -> Iterator[Path]:
    """A path in a new directory beside ``output``; what is made there takes its place in the end.

    After an error or Ctrl-C nothing of it is left. A device or a pipe is written to directly. Raises
    `UsageError` where something is there already (without ``force``) or is the recording itself.
    """
    target = Path(output)
    try:
        if target.exists() and target.samefile(recording):
            raise UsageError(f"--output {output} is the recording itself; choose another file")
        if target.exists() and not (target.is_file() or target.is_dir()):
            yield target
            return
        if os.path.lexists(target) and not force:
            raise UsageError(f"{output} exists; use --force or another --output")
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True
        ) as directory:
            made = Path(directory) / target.name
            yield made
            _put(made, target, Path(directory) / "old")
    except OSError as error:
        raise RecordingError(f"cannot write {output}: {error.strerror or error}") from None


def _put(made: Path, target: Path, aside: Path) -> None:
    """Into its place. A directory is replaced by another one alone, and only one of an export."""
    if made.is_dir() != target.is_dir() and target.exists():
        what = "a directory" if target.is_dir() else "no directory"
        raise UsageError(f"{target} is {what}; choose another --output")
    if target.is_dir():
        foreign = next(
            (
                one
                for one in target.rglob("*")
                if one.is_symlink() or (one.suffix != ".parquet" and not one.is_dir())
            ),
            None,
        )
        if foreign is not None:
            raise UsageError(f"{target} holds {foreign.name}, which no export made; it stays")
        try:
            target.rename(aside)
            made.rename(target)
        except BaseException:  # Ctrl-C in between: what was there is there again
            if aside.exists() and not target.exists():
                aside.rename(target)
            raise
        return
    made.replace(target)


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


def flaws(reader: Reader) -> list[str]:
    """What the reader of the packets must know about the recording."""
    from iptrec.views.info import how_many

    found = []
    if reader.losses:
        found.append(f"{how_many(reader.losses)}; see iptrec info")
    if not reader.facts.closed:
        found.append("the recording was not closed: cut off or running")
    return found


def tell_flaws(command: str, reader: Reader) -> None:
    """The same on stderr, so that nobody takes an answer for more than it is."""
    if found := flaws(reader):
        print(f"iptrec {command}: {'; '.join(found)}", file=sys.stderr)
