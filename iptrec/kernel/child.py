"""Run a function in a forked child and take its answer later: its time and its memory cost the parent nothing.

A list of routes or of a set's members may be long, and a recorder has something else to do meanwhile.
"""

from __future__ import annotations

import contextlib
import marshal
import os
from typing import TYPE_CHECKING, Self

from iptrec.errors import HostError, located

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Forked:
    """Calls ``look`` in a child process from now on; a context manager.

    ``look`` gives kinds of snapshots and their contents. ``what``: what it looks at.
    To be made while the process has no threads of its own, as every fork.
    """

    def __init__(self, what: str, look: Callable[[], Mapping[str, bytes]]) -> None:
        self._what = what
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if self._child == 0:
            _answer(writing, look)
        os.close(writing)
        self._answer = os.fdopen(reading, "rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        if self._child:
            os.waitpid(self._child, 0)

    def result(self) -> dict[str, bytes]:
        """What ``look`` gave. Raises `HostError` where it failed."""
        answer = self._answer.read()
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        if status:
            fact = answer.decode("utf-8", "backslashreplace") or f"status {status}"
            raise HostError(f"cannot read {self._what}: {fact}")
        found: dict[str, bytes] = marshal.loads(answer)  # noqa: S302 - of our own fork
        return found


def _answer(writing: int, look: Callable[[], Mapping[str, bytes]]) -> None:
    """The child's life; never returns."""
    status = 1
    try:
        _be_quiet()
        with os.fdopen(writing, "wb") as out:
            try:
                out.write(marshal.dumps(dict(look())))
                status = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells it
                fact = located(error) if isinstance(error, OSError) else str(error)
                out.write(" ".join(fact.split()).encode("utf-8", "backslashreplace"))
    finally:
        os._exit(status)


def _be_quiet() -> None:
    """The parent tells errors; nothing else is to be printed."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 2)
