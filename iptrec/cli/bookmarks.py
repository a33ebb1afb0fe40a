"""Bookmarks of long recordings, kept where a user's programs keep what can be made again.

A file a recording in $XDG_CACHE_HOME/iptrec, never beside the recording, which may be a stranger's. Made by the
first command that reads a closed recording from the beginning, and good for this very file as this very code
judges it. Whatever is wrong with one, or with the directory, the recording is read as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.analyze.bookmarks import Bookmark, Bookmarks
    from iptrec.recording.reader import Reader

_FORMAT: Final = 1
_FEWEST: Final = 500_000  # datagrams; what has fewer is read in half a second
_MOST_FILES: Final = 32
_LARGEST: Final = 64 << 20  # bytes


@contextlib.contextmanager
def remembered(reader: Reader) -> Iterator[Bookmarks | None]:
    """A recording's bookmarks, kept if more were made; None where it is not worth while.

    Connections are known only from the beginning on, so a recording with them has none.
    """
    from iptrec.analyze.bookmarks import Bookmarks

    if (
        not reader.facts.closed
        or reader.datagrams < _FEWEST
        or any(one.kind == "conntrack" for one in reader.streams)
    ):
        yield None
        return
    path = _directory() / f"{_key(reader)}.json"
    found = Bookmarks()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if path.parent.lstat().st_uid == os.geteuid() and path.stat().st_size <= _LARGEST:
            found = _read(json.loads(path.read_bytes()))
    before = len(found.marks), found.whole
    yield found
    if (len(found.marks), found.whole) != before:
        with contextlib.suppress(OSError):
            _keep(path, json.dumps(_written(found), separators=(",", ":")).encode())


def _directory() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "iptrec"


def _key(reader: Reader) -> str:
    """What differs where the recording's packets may have other numbers: the file, and our own code."""
    status = reader.path.stat()
    facts = reader.facts
    told = [
        facts.uuid, facts.started_ns, facts.stopped_ns, reader.datagrams,
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(told).encode())
    home = Path(__file__).parents[1]
    for package in ("analyze", "decode", "recording"):
        for source in sorted((home / package).glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _keep(path: Path, content: bytes) -> None:
    """Put it into its place at once, and let go of the oldest ones. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.lstat().st_uid != os.geteuid():  # sudo with the user's HOME
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


def _written(bookmarks: Bookmarks) -> dict[str, Any]:
    def row(one: Bookmark) -> list[Any]:
        start = one.start and one.start._replace(kept=one.start.kept.tolist())
        return [one.stream, start, *one[2:]]

    return {
        "format": _FORMAT,
        "whole": bookmarks.whole,
        "windows": [row(one) for one in bookmarks.marks],
    }


def _read(value: dict[str, Any]) -> Bookmarks:
    """Raises ValueError, KeyError or TypeError for what we have not written."""
    import numpy as np

    from iptrec.analyze.bookmarks import Bookmark, Bookmarks
    from iptrec.analyze.window import Start

    if value["format"] != _FORMAT:
        raise ValueError("another format")
    marks = []
    for stream, start, *rest in value["windows"]:
        begun = None
        if start is not None:
            after, through, kept, floors = start
            floors = tuple(map(int, floors))
            begun = Start(int(after), int(through), np.array(kept, np.int64), floors)
        marks.append(Bookmark(int(stream), begun, *map(int, rest)))
    return Bookmarks(marks, whole=bool(value["whole"]))
