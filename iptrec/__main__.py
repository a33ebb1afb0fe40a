"""The ``iptrec`` command, which is ``python -m iptrec`` as well."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from typing import Final

from iptrec import interrupts

# What says how many threads numpy's linear algebra starts when it is loaded. Nothing here uses them; they spin
# for a while (a third of the processor time of a short command), and keep the rights that they start with.
_THREADS: Final = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
)  # fmt: skip
# Objects that are made before Python looks for cycles among them: loading makes a hundred thousand, that stay.
_OBJECTS: Final = 10_000


def main() -> None:
    """Load the command line and run it.

    Ctrl-C and SIGTERM unwind whatever is under way, so that no temporary file stays. Before and after that
    there is nothing to unwind: they end the process at once, without a word. SIGUSR1 asks a recorder for a
    copy: before there is one, and elsewhere, it is no reason to end.
    """
    ends = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        ends.append(signal.SIGINT)  # under nohup or in the background it is ignored
    interrupts.end_at(ends)
    gc.set_threshold(_OBJECTS)
    atexit.register(gc.freeze)  # to look for cycles as it ends takes a tenth of a short command
    _open_standard_streams()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for name in _THREADS:
        os.putenv(
            name, "1"
        )  # for libraries alone: os.environ stays what a command of the user gets
    from iptrec.cli import main as run  # noqa: PLC0415 - takes a tenth of a second

    try:
        with interrupts.unwinding(ends):
            run()
    except KeyboardInterrupt:
        sys.exit(interrupts.EXIT_INTERRUPTED)


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
