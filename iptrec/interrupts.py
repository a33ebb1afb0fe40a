"""What Ctrl-C and SIGTERM do to a command that is at work: whatever is under way is unwound."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT  # as a shell tells it
_EXIT_TERMINATED: Final = 128 + signal.SIGTERM
_A_MOMENT_S: Final = 0.005
_ENDS: Final = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def unwinding(numbers: list[signal.Signals]) -> Iterator[None]:
    """Have these signals raise, from here to the end of the block."""
    astray = sys.unraisablehook
    try:
        sys.unraisablehook = _catch
        on(numbers, _unwind)
        yield
    finally:
        end_at([number for number in numbers if _raises(number)])
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = astray


def come_too_late() -> None:
    """Let no signal raise any more: what the command makes is about to get its name, and then it is done.

    A status other than 0 would say that nothing was made.
    """
    on([number for number in _ENDS if _raises(number)], signal.SIG_IGN)


def end_at(numbers: list[signal.Signals]) -> None:
    """Let these signals end the process at once.

    By default they do, but for the first process of a container, to which the kernel gives only those signals
    that it answers (pid_namespaces(7)).
    """
    on(numbers, _end if os.getpid() == 1 else signal.SIG_DFL)


def on(numbers: list[signal.Signals], handler: Callable[..., None] | signal.Handlers) -> None:
    """Answer these signals in this way."""
    for number in numbers:
        signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def _raises(number: signal.Signals) -> bool:
    return signal.getsignal(number) is _unwind


def _unwind(number: int, frame: FrameType | None) -> None:
    """Raise what a signal means; if a module is half loaded, a moment later.

    There the exception would come out as an ImportError, or go astray in a callback of the import system.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return _again(number)
        frame = frame.f_back
    if number == signal.SIGTERM:
        sys.exit(_EXIT_TERMINATED)
    raise KeyboardInterrupt


def _again(number: int) -> None:
    """Have the signal come once more. Who answers it then may be another one."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, _A_MOMENT_S)


def _catch(lost: sys.UnraisableHookArgs) -> None:
    """Have a signal come once more whose exception went astray, in a destructor."""
    number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(lost.exc_type)
    if number is None:
        sys.__unraisablehook__(lost)
    else:
        _again(number)
