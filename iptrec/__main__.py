"""The ``iptrec`` command, which is ``python -m iptrec`` as well."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_EXIT_INTERRUPTED: Final = 128 + signal.SIGINT  # as a shell tells it
_EXIT_TERMINATED: Final = 128 + signal.SIGTERM
_A_MOMENT_S: Final = 0.005
# What says how many threads numpy's linear algebra starts when it is loaded. Nothing here uses them; they spin
# for a while (a third of the processor time of a short command), and keep the rights that they start with.
_THREADS: Final = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
)  # fmt: skip


def main() -> None:
    """Load the command line and run it.

    Ctrl-C and SIGTERM unwind whatever is under way, so that no temporary file stays. Before and after that
    there is nothing to unwind: they end the process at once, without a word. SIGUSR1 asks a recorder for a
    copy: before there is one, and elsewhere, it is no reason to end.
    """
    ends = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        ends.append(signal.SIGINT)  # under nohup or in the background it is ignored
    _on(ends, signal.SIG_DFL)
    _open_standard_streams()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for name in _THREADS:
        os.putenv(
            name, "1"
        )  # for libraries alone: os.environ stays what a command of the user gets
    from iptrec.cli import main as run  # noqa: PLC0415 - takes a tenth of a second

    try:
        with _unwinding(ends):
            run()
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)


@contextlib.contextmanager
def _unwinding(numbers: list[signal.Signals]) -> Iterator[None]:
    """Have these signals raise, from here to the end of the block."""
    astray = sys.unraisablehook
    try:
        sys.unraisablehook = _catch
        _on(numbers, _unwind)
        yield
    finally:
        _on(numbers, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = astray


def _on(numbers: list[signal.Signals], handler: Callable[..., None] | signal.Handlers) -> None:
    for number in numbers:
        signal.signal(number, handler)


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


def _open_standard_streams() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed (`>&-`): no file of ours may get their numbers."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


if __name__ == "__main__":
    main()
