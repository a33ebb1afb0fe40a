"""An answer of an engine, and how it is waited for."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.lake.question import Value

    Ask = Callable[[str], "Answer"]  # of SQL
    # Is told now and then how much is done, from 0 to 100; None: the engine does not tell.
    Progress = Callable[[float | None], None]

T = TypeVar("T")
_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found. ``columns``: the names. ``rows``: each row, once; whole numbers are int."""

    columns: list[str]
    rows: Iterator[tuple[Any, ...]]


def escaped(value: Value) -> str:
    """A value as engines write it in whose texts a backslash means something."""
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def waited(work: Callable[[], T], *, stop: Callable[[], None], look: Callable[[], None]) -> T:
    """What ``work`` returns or raises, in another thread: an engine's own code would not hear Ctrl-C.

    ``look`` is called now and then meanwhile; ``stop`` makes the work end, and is called before an exception
    of this thread goes on.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    # Not Thread.join: when that is interrupted, Python 3.11 takes the thread for ended.
    try:
        while not wait([done], _LOOK_S).done:
            look()
    except BaseException:
        stop()
        wait([done])
        raise
    return done.result()
