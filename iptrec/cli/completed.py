"""What a shell is told that asks how a command line goes on.

The first line of an answer says what the others are: "values" are all that fits; "files .db .gz" are words that
fit beside files that are called so (no suffix: all); "command" is for the shell to complete, as it comes after
"--". Each further line is a word, for zsh and fish with a tab and a remark behind it, for bash as it is to be
typed. A recording may come from a stranger: a word with a character that cannot be printed is left out, and
every other is quoted, by zsh and fish themselves, for bash in `bash_line`.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any, Final, NoReturn

from iptrec.cli import bash_line
from iptrec.cli.typed import read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AT_MOST_S: Final = 0.8  # for a recording; nobody waits longer for a TAB
_CPU_S: Final = 3  # the kernel ends what does not even notice that
_MOST: Final = 2_000  # words
_LONGEST: Final = 70  # characters of a remark


class _LateError(Exception):
    """The time is up."""


def answer(shell: str, typed: list[str], root: Any) -> Iterator[str]:  # noqa: ANN401 - typer's own click
    """The lines; ``typed``: the words up to the one that is completed, of bash its line and its own word."""
    if shell == "bash":
        line = bash_line.read(*typed[:2])
        if line is None:
            return
        words, word = line.words, line.word
    else:
        line = None
        *words, word = typed
        if shell == "fish" and (raw := bash_line.read(word)):
            word = " ".join([*raw.words, raw.word])  # it gives the word as it is typed
    with _limits(), contextlib.suppress(_LateError):
        kind, found = _answer(words[1:], word, root)
        yield kind
        for value, remark in found:
            if line is not None:
                if (reply := line.reply(value)) is not None:
                    yield reply
            elif remark:
                yield f"{value}\t{remark}"
            else:
                yield value


def _answer(words: list[str], word: str, root: Any) -> tuple[str, Iterable[tuple[str, str]]]:  # noqa: ANN401
    from iptrec.cli.candidates import candidates

    place = read(words, root)
    if place.command_starts:
        return "command", ()
    kind, found = candidates(place, word)
    return kind, _fitting(found, word)


def _fitting(found: Iterable[tuple[str, str]], word: str) -> Iterator[tuple[str, str]]:
    """Those that begin so and can be printed, as far as they are found in time; remarks on one line."""
    left = _MOST
    # Whatever a damaged file does: a shell that completes has no place for an error.
    with contextlib.suppress(_LateError, Exception):
        for value, remark in found:
            if left and value.startswith(word) and value.isprintable():
                left -= 1
                yield value, _remark(remark)


def _remark(text: str) -> str:
    shown = "".join(one if one.isprintable() else "?" for one in text[: _LONGEST + 1])
    return shown if len(text) <= _LONGEST else f"{shown[:_LONGEST]}..."


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Not much time, whatever is in a file."""

    def late(*_: object) -> NoReturn:
        raise _LateError

    # Not RLIMIT_CPU, which counts from when the process began, and otherwise than Python can ask.
    signal.setitimer(signal.ITIMER_PROF, _CPU_S)
    ringing = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _AT_MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, ringing)
        signal.setitimer(signal.ITIMER_PROF, 0)
