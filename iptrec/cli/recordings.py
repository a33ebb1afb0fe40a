"""A recording for a command: with its index, and with a bar that tells how far the command is."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from iptrec.errors import EXIT_TROUBLE, AbandonedError
from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.api import Recording


@contextlib.contextmanager
def opened(
    path: str,
    *,
    held: int | None = None,
    index: bool = False,
    bar: bool = False,
    jobs: int = 1,
    title: str = "packets",
) -> Iterator[Recording]:
    """The recording; "-" is stdin.

    ``held``: a descriptor of it, beside a recorder (`follower`). ``index``: long ones are read from the middle
    on where that will do, see `index`. ``bar``: on stderr, while it is read, under this ``title``. ``jobs``: so
    many processes read it, without a bar and an index.
    """
    from iptrec.api import Recording
    from iptrec.cli.index import remembered
    from iptrec.cli.progress import watched
    from iptrec.recording.reader import Reader

    path = named(path)
    with _told_by_recorder(), Reader(path, held) as reader, contextlib.ExitStack() as stack:
        if jobs > 1 and _can_be_opened_again(path) and reader.facts.closed:
            from iptrec.packets.several import windows

            reopen = partial(Reader, path)
            read = partial(windows, jobs=jobs, reopen=reopen, sizes=reader.chunk_sizes)
            yield Recording(reader, read=read)
            return
        rows = stack.enter_context(watched(reader, title)) if bar else reader
        index = index and Path(path).is_file()
        known = stack.enter_context(remembered(reader)) if index else None
        yield Recording(reader, rows, known)


def _can_be_opened_again(path: str) -> bool:
    """Whether another process that opens it reads it from the beginning, too."""
    return Path(path).is_file() and not path.startswith(("/dev/", "/proc/"))


@contextlib.contextmanager
def _told_by_recorder() -> Iterator[None]:
    """No word of ours where the recorder says why it ended."""
    try:
        yield
    except AbandonedError:
        raise typer.Exit(EXIT_TROUBLE) from None


def named(path: str) -> str:
    """The name of a file that is to be read: "-" is stdin."""
    return "/dev/stdin" if path == "-" else path


def flaws(recording: Recording, unjudged: int = 0, *, trace: bool = False) -> list[str]:
    """What the reader of the packets must know about the recording.

    ``unjudged``: of how many packets the filter does not know. ``trace``: for `iptrec trace`, which says by
    itself why there is none.
    """
    from iptrec.recording.kinds import no_room
    from iptrec.recording.rows import lost_beside, lost_events
    from iptrec.views.losses import NOT_CLOSED, how_many, not_packed

    found = []
    if unjudged:
        packets = counted(unjudged, "packet")
        found.append(f"the filter cannot judge {packets}: the headers were not recorded whole")
    if not trace and _is_empty(recording):
        found.append("no packet was recorded; see iptrec info")
    if lost := how_many(lost_events(recording.rows)):
        found.append(f"{lost}; see iptrec info")
    found += [f"left out {text}" for text in not_packed(recording.rows)]
    found += dict.fromkeys(no_room(stream.kind) for stream, _ in lost_beside(recording.rows))
    if not recording.facts.closed:
        found.append(NOT_CLOSED[recording.running])
    return found


def tell_flaws(
    command: str, recording: Recording, unjudged: int = 0, none: str = "", untold: int = 0
) -> None:
    """The same on stderr, so that nobody takes an answer for more than it is.

    ``none``: why it is empty. ``untold``: how many packets that rules met are in no trace.
    """
    missing = f"nf_tables told nothing of {counted(untold, 'packet')}" if untold else ""
    tell(command, [none, missing, *flaws(recording, unjudged)])


def tell(command: str, remarks: Sequence[str]) -> None:
    """What is to be said beside an answer, on stderr; empty ones are left out."""
    if said := "; ".join(filter(None, remarks)):
        print(f"iptrec {command}: {said}", file=sys.stderr)


def _is_empty(recording: Recording) -> bool:
    from iptrec.answers.traced import traced

    return not traced(recording.rows)
