"""Where a view's text goes: a file or stdout, with or without colours."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, TextIO

import typer

from iptrec import interrupts
from iptrec.errors import RecordingError, UsageError, strerror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.files import Draft, DraftDirectory

_EXIT_PIPE: Final = 141  # what a shell says of a program that SIGPIPE (13) ended: 128 + 13


GROUP: Final = "Output"  # of options in --help
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        rich_help_panel=GROUP,
        help="Permissions of what is made, as of chmod: 640. Without: 600.",
    ),
]

Files = str | list[str]  # one recording, or several
Jobs = Annotated[
    int,
    typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes that read a long recording."),
]


@contextlib.contextmanager
def opened(
    output: str, recording: Files, mode: str = "", *, grows: bool = False
) -> Iterator[TextIO]:
    """The file, or stdout for "-"; never the recording itself, which is evidence.

    What was there is replaced when the file is whole. One that ``grows`` replaces it at once, to be read.
    """
    if output == "-":
        with _stdout():
            yield sys.stdout
            sys.stdout.flush()
        return
    with (
        exported(output, recording, force=True, mode=mode, grows=grows) as raw,
        io.TextIOWrapper(raw, encoding="utf-8") as text,
    ):
        yield text


@contextlib.contextmanager
def exported(
    output: str,
    recording: Files,
    *,
    force: bool,
    mode: str = "",
    grows: bool = False,
    option: str = "--output",
    called: str = "stdout",
) -> Iterator[BinaryIO]:
    """A stream of bytes to a file, which is there whole or not at all; or to stdout for "-".

    ``grows``: see `opened`. ``option``: that names it. ``called``: what stdout is called in an error.
    """
    from iptrec.files import Draft

    if output == "-":
        if sys.stdout.isatty():
            raise UsageError(f"{option} - would write bytes to the terminal; use a pipe or a file")
        with _stdout("stdout" if called == "-" else called):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    target = Path(output)
    with _writing(target, recording, force=force, option=option) as device:
        if device is not None:
            yield device
            return
        with Draft(target, mode=mode_of(mode)) as draft:
            if grows:
                draft.publish(replace=force)
            with draft.stream() as file:
                yield file
            if not grows:
                publish(draft, replace=force)


@contextlib.contextmanager
def built(output: str, recording: Files, *, force: bool, mode: str = "") -> Iterator[Draft]:
    """As `exported`, for a file that SQLite makes."""
    from iptrec.files import Draft
    from iptrec.recording import private

    target = Path(output)
    with contextlib.ExitStack() as stack:
        stream: BinaryIO | None = None
        if output != "-":
            stream = stack.enter_context(_writing(target, recording, force=force))
            if stream is None and _is_safe(target):
                private.place()  # SQLite sorts there
                draft = stack.enter_context(Draft(target, named=True, mode=mode_of(mode)))
                yield draft
                publish(draft, replace=force)
                return
        if stream is None:
            stream = stack.enter_context(exported(output, recording, force=force, mode=mode))
        aside = stack.enter_context(private.directory()) / "made"
        draft = stack.enter_context(Draft(aside, named=True))
        yield draft
        with open(draft.descriptor, "rb", closefd=False) as file:
            file.seek(0)
            shutil.copyfileobj(file, stream)


@contextlib.contextmanager
def directory(
    output: str, recording: Files, *, force: bool, mode: str = ""
) -> Iterator[DraftDirectory]:
    """A directory of files, which is there whole or not at all; it replaces only one of an export."""
    from iptrec.files import DraftDirectory

    target = Path(output)
    with _writing(target, recording, force=force, directory=True):
        if target.is_dir():
            _check_export(target)
        with DraftDirectory(target, mode=mode_of(mode)) as draft:
            yield draft
            publish(draft, replace=force)


def publish(draft: Draft | DraftDirectory, *, replace: bool) -> None:
    """Give what is made its name; from then on it is done, whatever signal comes."""
    interrupts.come_too_late()
    draft.publish(replace=replace)


@contextlib.contextmanager
def _writing(
    target: Path,
    recording: Files,
    *,
    force: bool,
    directory: bool = False,
    option: str = "--output",
) -> Iterator[BinaryIO | None]:
    """A device or a pipe, which is written to; None for what is to be made.

    Errors are one line; what may not be replaced is refused before anything is made.
    """
    from iptrec.files import open_device

    try:
        device = None if directory else open_device(target)
        if device is None:
            _check_target(target, recording, force=force, directory=directory, option=option)
            yield None
        else:
            with open(device, "wb") as file:  # noqa: PTH123 - no name
                yield file
    except FileExistsError:
        raise UsageError(f"{target} exists; use --force or another {option}") from None
    except OSError as error:
        raise RecordingError(f"cannot write {target}: {strerror(error)}") from None


def _check_target(
    target: Path, recording: Files, *, force: bool, directory: bool, option: str
) -> None:
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} exists; use --force or another {option}")
    if target.is_symlink():
        raise UsageError(f"{target} is a symbolic link; name what it leads to, or - for stdout")
    if not target.exists():
        return
    for one in [recording] if isinstance(recording, str) else recording:
        if one != "-" and target.samefile(one):
            raise UsageError(f"{option} {target} is the recording itself; choose another file")
    if target.is_dir() != directory:
        what = "not a directory" if directory else "a directory"
        raise UsageError(f"{target} is {what}; choose another {option}")
    if not (directory or target.is_file()):
        raise UsageError(f"{target} is not a regular file; choose another {option}")


def _check_export(target: Path) -> None:
    for one in target.rglob("*"):
        if one.is_symlink() or (one.suffix != ".parquet" and not one.is_dir()):
            raise UsageError(f"{target} holds {one.name}, which no export made; it stays")


def _is_safe(target: Path) -> bool:
    """Whether SQLite may be let in there."""
    from iptrec.files import Place

    with contextlib.closing(Place(target)) as place:
        return place.safe


def mode_of(text: str) -> int | None:
    """--mode; None without it."""
    if not text:
        return None
    if not re.fullmatch("0?[0246]{3}", text):
        raise UsageError(
            f"--mode {text!r}: expected three octal digits out of 0, 2, 4, 6, e.g. 640"
        )
    return int(text, 8)


@contextlib.contextmanager
def _stdout(called: str = "stdout") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is still in the buffer cannot be written either when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # as head closes it; there is nothing to be said
            raise SystemExit(_EXIT_PIPE) from None
        raise RecordingError(f"cannot write to {called}: {strerror(error)}") from None


def width(output: str) -> int | None:
    """The columns of the terminal; None for a file or a pipe, where nothing is wrapped."""
    if output == "-" and sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return None


def colours(choice: str, output: str) -> bool:
    """--color auto|always|never and https://no-color.org."""
    if choice not in ("auto", "always", "never"):
        raise UsageError(f"--color {choice!r}: must be one of auto, always, never")
    if choice == "auto":
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return output == "-" and sys.stdout.isatty() and not plain
    return choice == "always"
