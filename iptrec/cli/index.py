"""Bookmarks of long recordings, kept where a user's programs keep what can be made again.

A file a recording in $XDG_CACHE_HOME/iptrec, never beside the recording, which may be a stranger's. Made by the
first command that reads a closed recording from the beginning, and good for this very file as this very code
judges it. One is believed that nobody but the user could have written, and that holds what was written, to the
bit; whatever is wrong with it, or with the directory, the recording is read as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.answers.index import Index
    from iptrec.packets.window import Bookmark
    from iptrec.recording.reader import Reader

_FORMAT: Final = 3
_FEWEST: Final = 500_000  # datagrams; what has fewer is read in half a second
_MOST_FILES: Final = 32
_LARGEST: Final = 64 << 20  # bytes


@contextlib.contextmanager
def remembered(reader: Reader) -> Iterator[Index | None]:
    """A recording's bookmarks, kept if more were made; None where it is not worth while.

    Connections are known only from the beginning on, so a recording with them has none.
    """
    from iptrec.answers.index import Index

    if (
        not reader.facts.closed
        or reader.datagrams < _FEWEST
        or any(one.kind == "conntrack" for one in reader.streams)
    ):
        yield None
        return
    key = _key(reader)
    path = _directory() / f"{key}.json"
    found = Index()
    with contextlib.suppress(Exception):  # no fault of a cache is one of the answer
        if _owned(path.parent.lstat()):
            found = _read(json.loads(_unsealed(path, key)), {one.id for one in reader.streams})
    before = len(found.marks), found.whole
    yield found
    if (len(found.marks), found.whole) != before:
        with contextlib.suppress(OSError, RecordingError):
            _keep(path, _sealed(json.dumps(_written(found), separators=(",", ":")).encode(), key))


def _directory() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path("~/.cache").expanduser()
        except RuntimeError:  # a user without a home
            base = Path(os.devnull)
    return base / "iptrec"


def _key(reader: Reader) -> str:
    """What differs where the recording's packets may have other numbers: the file, and our own code."""
    status = reader.path.stat()
    facts = reader.facts
    parts = [
        facts.uuid, facts.started_ns, facts.stopped_ns, reader.datagrams,
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(parts).encode())
    home = Path(__file__).parents[1]
    for source in sorted(home.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _owned(status: os.stat_result) -> bool:
    """Whether nobody but this user (and root) may write there."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _sealed(content: bytes, key: str) -> bytes:
    """The content behind its checksum, which is good for this recording alone."""
    digest = hashlib.blake2b(content, key=bytes.fromhex(key), digest_size=32)
    return digest.hexdigest().encode() + b"\n" + content


def _unsealed(path: Path, key: str) -> bytes:
    """The content of what was sealed. Raises OSError; ValueError if it is another one, or not ours."""
    from iptrec.recording.private import opened

    with opened(path) as file:
        if not _owned(os.fstat(file.fileno())):
            raise ValueError("somebody else may have written it")
        raw = file.read(_LARGEST)
    _, _, content = raw.partition(b"\n")
    if raw != _sealed(content, key):
        raise ValueError("damaged")
    return content


def _keep(path: Path, content: bytes) -> None:
    """Put it into its place at once, and let go of the oldest ones. Raises OSError, or `RecordingError`."""
    from iptrec.files import Place

    if len(content) > _LARGEST:
        return
    nearest = next(one for one in path.parents if one.exists())
    if nearest.stat().st_uid not in (0, os.geteuid()):
        return  # sudo with the user's HOME: nothing is made there
    with contextlib.closing(Place(nearest / path.name)) as place:
        if not place.links:
            return  # a stranger's link leads there
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _owned(path.parent.lstat()):
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise
    there = sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime_ns)
    for old in there[:-_MOST_FILES]:
        old.unlink()


def _written(bookmarks: Index) -> dict[str, Any]:
    def row(one: Bookmark) -> list[Any]:
        starts = one.starts and [each._replace(kept=each.kept.tolist()) for each in one.starts]
        return [one.stream, starts, *one[2:]]

    return {
        "format": _FORMAT,
        "whole": bookmarks.whole,
        "windows": [row(one) for one in bookmarks.marks],
    }


def _read(value: dict[str, Any], streams: Collection[int]) -> Index:
    """Raises whatever comes of it for what we have not written; ``streams``: the recording's."""
    import numpy as np

    from iptrec.answers.index import Index
    from iptrec.packets.assembler import Start
    from iptrec.packets.window import Bookmark

    if value["format"] != _FORMAT:
        raise ValueError("another format")
    marks = []
    for stream, starts, *rest in value["windows"]:
        begun = None
        if starts is not None:
            begun = tuple(
                Start(int(after), int(through), np.array(kept, np.int64), tuple(map(int, floors)))
                for after, through, kept, floors in starts
            )
        marks.append(Bookmark(int(stream), begun, *map(int, rest)))
    if not all(map(_follows, [None, *marks], marks)):
        raise ValueError("windows do not follow each other")
    if not {one.stream for one in marks} <= {*streams}:
        raise ValueError("a stream that is not there")
    return Index(marks, whole=bool(value["whole"]))


def _follows(before: Bookmark | None, one: Bookmark) -> bool:
    """Whether a window can come after another one, or as the first."""
    first = 1 if before is None else before.number + before.packets
    return (
        one.number == first
        and min(one.packets, one.reach) >= 0
        and all(0 <= each.after <= each.through and each.floors_ns for each in one.starts or ())
    )
