"""Where a view's text goes: a file or stdout, with or without colours."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, TextIO

import typer

from iptrec.errors import RecordingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.files import Draft, DraftDirectory
    from iptrec.recording.reader import Reader

_EXIT_PIPE: Final = 141  # what a shell says of a program that SIGPIPE (13) ended: 128 + 13


Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="Permissions of what is made, as of chmod: 640. Without: 600.",
    ),
]


@contextlib.contextmanager
def opened(output: str, recording: str, mode: str = "") -> Iterator[TextIO]:
    """The file, or stdout for "-"; never the recording itself, which is evidence.

    What was there is replaced at once, and the new file can be read while it grows.
    """
    from iptrec.files import Draft

    if output == "-":
        with _stdout():
            yield sys.stdout
            sys.stdout.flush()
        return
    target = Path(output)
    with _writing(target, recording), contextlib.ExitStack() as stack:
        if _is_device(target):
            raw = stack.enter_context(_device(target))
        else:
            draft = stack.enter_context(Draft(target, mode=_mode(mode)))
            draft.publish(replace=True)
            raw = stack.enter_context(draft.stream())
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8"))


@contextlib.contextmanager
def exported(output: str, recording: str, *, force: bool, mode: str = "") -> Iterator[BinaryIO]:
    """A stream of bytes to a file, which is there whole or not at all; or to stdout for "-"."""
    from iptrec.files import Draft

    if output == "-":
        if sys.stdout.isatty():
            raise UsageError("--output - would write bytes to the terminal; use a pipe or a file")
        with _stdout():
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    target = Path(output)
    with _writing(target, recording, force=force):
        if _is_device(target):
            with _device(target) as file:
                yield file
            return
        with Draft(target, mode=_mode(mode)) as draft:
            with draft.stream() as file:
                yield file
            draft.publish(replace=force)


@contextlib.contextmanager
def built(output: str, recording: str, *, force: bool, mode: str = "") -> Iterator[Draft]:
    """As `exported`, for a file that SQLite makes."""
    from iptrec.files import Draft

    target = Path(output)
    with contextlib.ExitStack() as stack:
        if output != "-":
            stack.enter_context(_writing(target, recording, force=force))
            if not _is_device(target) and _is_safe(target):
                draft = stack.enter_context(Draft(target, named=True, mode=_mode(mode)))
                yield draft
                draft.publish(replace=force)
                return
        stream = stack.enter_context(exported(output, recording, force=force, mode=mode))
        made = tempfile.TemporaryDirectory(prefix="iptrec-", ignore_cleanup_errors=True)
        aside = Path(stack.enter_context(made), "made")
        draft = stack.enter_context(Draft(aside, named=True))
        yield draft
        with open(draft.descriptor, "rb", closefd=False) as file:
            file.seek(0)
            shutil.copyfileobj(file, stream)


@contextlib.contextmanager
def directory(
    output: str, recording: str, *, force: bool, mode: str = ""
) -> Iterator[DraftDirectory]:
    """A directory of files, which is there whole or not at all; it replaces only one of an export."""
    from iptrec.files import DraftDirectory

    target = Path(output)
    with _writing(target, recording, force=force, directory=True):
        if target.is_dir():
            _check_export(target)
        with DraftDirectory(target, mode=_mode(mode)) as draft:
            yield draft
            draft.publish(replace=force)


@contextlib.contextmanager
def _writing(
    target: Path, recording: str, *, force: bool = True, directory: bool = False
) -> Iterator[None]:
    """Errors as one line; what may not be replaced is refused before anything is made."""
    try:
        _check_target(target, recording, force=force, directory=directory)
        yield
    except FileExistsError:
        raise UsageError(f"{target} exists; use --force or another --output") from None
    except OSError as error:
        raise RecordingError(f"cannot write {target}: {error.strerror or error}") from None


def _check_target(target: Path, recording: str, *, force: bool, directory: bool) -> None:
    if os.path.lexists(target) and not force and not _is_device(target):
        raise UsageError(f"{target} exists; use --force or another --output")
    if target.is_symlink() and not _is_device(target):
        raise UsageError(f"{target} is a symbolic link; name what it leads to, or - for stdout")
    if not target.exists():
        return
    if target.samefile(recording):
        raise UsageError(f"--output {target} is the recording itself; choose another file")
    if target.is_dir() != directory:
        what = "not a directory" if directory else "a directory"
        raise UsageError(f"{target} is {what}; choose another --output")


def _check_export(target: Path) -> None:
    for one in target.rglob("*"):
        if one.is_symlink() or (one.suffix != ".parquet" and not one.is_dir()):
            raise UsageError(f"{target} holds {one.name}, which no export made; it stays")


def _is_device(target: Path) -> bool:
    """A device or a pipe, which is written to, not replaced."""
    return target.exists() and not (target.is_file() or target.is_dir())


@contextlib.contextmanager
def _device(target: Path) -> Iterator[BinaryIO]:
    """Opened to be written to; root follows nobody else's names there."""
    from iptrec.files import Place

    with contextlib.closing(Place(target)) as place:
        if not place.ours:
            raise UsageError(
                f"{target} is a device or a pipe where others than root can put one; use - and a pipe"
            )
        with place.acting():
            descriptor = os.open(target, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - no name
        yield file


def _is_safe(target: Path) -> bool:
    """Whether SQLite may be let in there."""
    from iptrec.files import Place

    with contextlib.closing(Place(target)) as place:
        return place.safe


def _mode(text: str) -> int | None:
    """--mode; None without it."""
    if not text:
        return None
    if not re.fullmatch("0?[0246]{3}", text):
        raise UsageError(
            f"--mode {text!r}: expected three octal digits out of 0, 2, 4, 6, e.g. 640"
        )
    return int(text, 8)


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
