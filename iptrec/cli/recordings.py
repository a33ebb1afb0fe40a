"""A recording for a command: with its index, and with a bar that tells how far the command is."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from iptrec.errors import EXIT_TROUBLE, AbandonedError, RecordingError
from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.api import Recording
    from iptrec.recording.rows import Recording as Rows
    from iptrec.recording.several import Several

_FILES: Final = 3  # of a recording that is still written: SQLite's log, and the index of that
_OTHERS: Final = 32  # files that are open beside them


@contextlib.contextmanager
def opened(
    path: str,
    *more: str,
    held: int | None = None,
    index: bool = False,
    bar: bool = False,
    jobs: int = 1,
    title: str = "packets",
    merged: bool = False,
    remarks: bool = True,
) -> Iterator[Recording]:
    """The recording, or several read as one (`recording.several`); "-" is stdin.

    ``held``: a descriptor of it, beside a recorder (`follower`). ``index``: long ones are read from the middle
    on where that will do, see `index`. ``bar``: on stderr, while it is read, under this ``title``. ``jobs``: so
    many processes read it, without a bar and an index. ``merged``: it may be a file of several recordings.
    ``remarks``: on stderr, of recordings that are there twice.
    """
    from iptrec.api import Recording
    from iptrec.cli.index import remembered
    from iptrec.cli.progress import watched
    from iptrec.recording.reader import Reader

    path = named(path)
    with _told_by_recorder(), contextlib.ExitStack() as stack:
        reader = stack.enter_context(Reader(path, held))
        if more or (merged and reader.merged):
            from iptrec.recording.several import Several

            _make_room(1 + len(more))
            others = [stack.enter_context(Reader(named(one))) for one in more]
            several = Several([reader, *others])
            if remarks:
                _tell_copies(several)
            rows = stack.enter_context(watched(several, title)) if bar else several
            yield Recording(several, rows)
            return
        if reader.merged:
            reader.facts  # noqa: B018 - says that it cannot be read as one
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


def several_of(recording: Recording) -> Several:
    """The several that are open as one."""
    from iptrec.recording.several import Several

    assert isinstance(recording.reader, Several)  # noqa: S101 - the caller opened several
    return recording.reader


def _tell_copies(several: Several) -> None:
    from iptrec.views.escape import printable

    for one, other in several.copies:
        print(
            f"iptrec: {printable(one)} and {printable(other)} are copies of one recording: packets that both"
            " have are there twice",
            file=sys.stderr,
        )


def _make_room(count: int) -> None:
    """Let so many recordings be open at once; raises `RecordingError` where the system does not."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    if count + _OTHERS > most:
        raise RecordingError(
            f"{count:,} recordings cannot be open at once, the limit is {most:,} files (ulimit -Hn);"
            " merge them in groups: iptrec merge"
        )
    wanted = min(_FILES * count + _OTHERS, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
    from iptrec.recording.hosts import hosts

    found = []
    if unjudged:
        packets = counted(unjudged, "packet")
        found.append(f"the filter cannot judge {packets}: the headers were not recorded whole")
    if several := hosts(recording.rows):
        of = ((one.file, _lacks(one.recording, one.running, trace=trace)) for one in several)
        return found + [f"{file}: {lack}" for file, some in of for lack in some]
    running = None if recording.facts.closed else recording.running
    return found + _lacks(recording.rows, running, trace=trace)


def _lacks(rows: Rows, running: bool | None, *, trace: bool) -> list[str]:
    """What one recording has not; ``running``: where it is not closed."""
    from iptrec.answers.traced import traced
    from iptrec.recording.kinds import no_room
    from iptrec.recording.rows import lost_beside, lost_events
    from iptrec.views import rebuilt
    from iptrec.views.losses import NOT_CLOSED, how_many, not_packed

    found = [remark] if (remark := rebuilt.remark(rows)) else []
    if not trace and not traced(rows):
        found.append("no packet was recorded; see iptrec info")
    if lost := how_many(lost_events(rows)):
        found.append(f"{lost}; see iptrec info")
    found += [f"left out {text}" for text in not_packed(rows)]
    found += dict.fromkeys(no_room(stream.kind) for stream, _ in lost_beside(rows))
    if not rows.facts.closed:
        found.append(NOT_CLOSED[running])
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
