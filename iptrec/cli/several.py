"""The words of a command that are recordings: the first one, and the next ones that are files like it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HELP: Final = "The recording, or several: A.db B.db, 'day-*.db'."
_WILD: Final = re.compile(r"[*?[]")
_NAMED: Final = re.compile(r"\S+\.(db|db\.(xz|bz2)|gz|zst|zip)")  # as a recording is called
_OF_HOSTS: Final = (
    "host",
    "src",
    "dst",
    "gateway",
)  # in a filter: names follow, of which some end in .zip
_STDIN: Final = "-"


def split(first: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The recordings, and the other words. A pattern in quotes means all that match it.

    Raises `UsageError` for a file that is given twice, for a pattern that comes first and matches nothing, and
    for a word that is called as a recording is and cannot be one.
    """
    found = _matching(first) or [first]
    if found == [first] and _WILD.search(first) and not _is_there(first):
        raise UsageError(wrong(first))
    left = list(words)
    while left and (more := _recordings(left[0])):
        found += more
        del left[0]
    for before, one in zip(["", *left], left, strict=False):
        if _NAMED.fullmatch(one) and before not in _OF_HOSTS:
            raise UsageError(wrong(one))
    if len(found) > 1:
        _check_each_once(found)
    return found, left


def _recordings(word: str) -> list[str]:
    """Those that a word means; none of a word of a filter."""
    from iptrec.cli.operands import is_recording
    from iptrec.recording.spooled import is_pipe

    with contextlib.suppress(OSError, ValueError):  # a filter may be too long for a name
        path = Path(word)
        if (path.is_file() and is_recording(word)) or ("/" in word and is_pipe(path)):
            return [word]
    return [one for one in _matching(word) if is_recording(one)]


def _matching(word: str) -> list[str]:
    """The files that a pattern means, by their names."""
    if not _WILD.search(word):
        return []
    import glob

    with contextlib.suppress(OSError, ValueError):
        if not Path(word).exists():
            return sorted(one for one in glob.glob(word) if Path(one).is_file())  # noqa: PTH207 - absolute ones, too
    return []


def _is_there(word: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(word).exists()
    return False


def wrong(word: str) -> str:
    """Why a word that should be a recording is none."""
    if _WILD.search(word) and not _is_there(word):
        return f"no {'recording' if _matching(word) else 'file'} matches {word!r}"
    if not _is_there(word):
        return f"cannot open {word}: there is no such file"
    if _recordings(word):
        return f"{word} is a recording: recordings come before the filter"
    return f"{word} is not an iptrec recording"


def _check_each_once(paths: Sequence[str]) -> None:
    seen: dict[object, str] = {}
    for one, key in _files(paths):
        if key in seen:
            same = f"as {seen[key]}" if seen[key] != one else "twice"
            raise UsageError(f"{one} is given {same}; give each recording once")
        seen[key] = one


def _files(paths: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Each name, and what is the same of all names of one file."""
    for one in paths:
        key: object = one
        with contextlib.suppress(OSError):
            if one != _STDIN:
                told = Path(one).stat()
                key = told.st_dev, told.st_ino
        yield one, key
