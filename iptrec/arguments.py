"""What a caller of the Python API gives: taken where its meaning is plain, else refused in one line.

Each function takes an argument's name and value, and returns the value as the rest of iptrec has it. It raises
`UsageError`, which says what was given and what was expected. A name is `Advice` where a command passes on what
was typed. Integers are all that have __index__, those of
numpy as well; True and False are no numbers.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from iptrec.errors import Advice, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

Name: TypeAlias = str | Advice
T = TypeVar("T")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MOST_SECONDS: Final = 10**9
_MOST: Final = 2**63 - 1  # what SQLite and numpy count to
_SHOWN: Final = 100  # characters of a value in an error


def wrong(name: Name, value: object, expected: str) -> UsageError:
    """The error that says what was given; ``expected``: what was meant to be."""
    try:
        shown = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - of a stranger's object; and of integers with thousands of digits
        shown = f"({type(value).__name__})"
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return UsageError(name, f"={shown}: {expected}")


def integer(value: object) -> int | None:
    """The number that a value is, None if it is not one."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def number(name: Name, value: object) -> int:
    """An integer of 64 bits."""
    found = integer(value)
    if found is None:
        raise wrong(name, value, "expected a number")
    if abs(found) > _MOST:
        raise wrong(name, value, "expected a number between -2^63 and 2^63")
    return found


def count(name: Name, value: object, least: int = 1, what: str = "") -> int:
    """An integer from ``least`` on; ``what``: it counts."""
    found = integer(value)
    expected = f"expected {what}a number from {least}"
    if found is None or found < least:
        raise wrong(name, value, expected)
    if found > _MOST:
        raise wrong(name, value, f"{expected}, less than 2^63")
    return found


def seconds(name: Name, value: object) -> float:
    """A time that passes."""
    found: Any = value if isinstance(value, Real) else integer(value)
    if found is None or isinstance(value, bool) or not 0 < found < _MOST_SECONDS:
        raise wrong(name, value, "expected seconds, more than 0 and less than 10^9")
    return float(found)


def moment(name: Name, value: object) -> int:
    """A time as ns since 1970, of 64 bits at most; a datetime has to have a time zone."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return (value - _EPOCH) // _MICROSECOND * 1000
    found = integer(value)
    if found is None:
        raise wrong(name, value, "expected ns since 1970, or a datetime with a time zone")
    return max(-_MOST, min(found, _MOST))


def mark(name: Name, value: object) -> tuple[int, int]:
    """A mark and its mask: a number, all of whose bits count, or both."""
    parts = value if isinstance(value, tuple) else (value, 0xFFFFFFFF)
    found = [one for one in map(integer, parts) if one is not None and 0 <= one < 2**32]
    if len(found) != 2 or len(parts) != 2:  # noqa: PLR2004
        raise wrong(name, value, "expected 32 bits, or (value, mask), e.g. (0x1, 0xff)")
    if found[0] & ~found[1]:
        raise wrong(
            name, value, "the value has bits that the mask leaves out, so nothing can match"
        )
    return found[0], found[1]


def text(name: Name, value: object) -> str:
    """A text that programs and files can be given."""
    if not isinstance(value, str):
        raise wrong(name, value, "expected a text")
    return _storable(name, value, str(value))


def yes_or_no(name: Name, value: object) -> bool:
    """True or False, nothing else."""
    if not isinstance(value, bool):
        raise wrong(name, value, "must be True or False")
    return value


def one_of(name: Name, value: T, known: Collection[str]) -> T:
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        raise wrong(name, value, f"must be one of {', '.join(known)}")
    return value


def file(name: Name, value: object) -> str:
    """The name of a file, as text, bytes or os.PathLike."""
    found = _path(value)
    if not found:
        raise wrong(name, value, "expected the name of a file")
    return _storable(name, value, found)


def namespace(name: Name, value: object) -> str:
    """A network namespace: its name, its path, or a process in it."""
    pid = integer(value)
    if pid is not None and 0 < pid <= _MOST:
        return f"/proc/{pid}/ns/net"
    found = _path(value)
    if not found:
        raise wrong(name, value, "expected a name of ip netns, a path or a pid")
    return _storable(name, value, found)


def words(name: Name, value: object) -> tuple[str, ...]:
    """A command and its arguments; a text is not cut into words."""
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
    found = [*map(_path, value)] if several and isinstance(value, Sequence) else [None]
    if None in found or not found:
        raise wrong(name, value, 'expected a list of words, e.g. ["ping", "-c1", "192.0.2.1"]')
    return tuple(_storable(name, value, one or "") for one in found)


def function(name: Name, value: T) -> T:
    """Something to be called."""
    if not callable(value):
        raise wrong(name, value, "expected a function")
    return value


def _path(value: object) -> str | None:
    return os.fsdecode(value) if isinstance(value, str | bytes | os.PathLike) else None


def _storable(name: Name, value: object, found: str) -> str:
    """The text, if the system takes it: neither what ends a text in C nor what has no bytes."""
    if "\0" in found:
        raise wrong(name, value, "holds a NUL byte")
    try:
        os.fsencode(found)
    except UnicodeEncodeError:
        raise wrong(name, value, "holds half a surrogate pair, which is no character") from None
    return found
