"""The ``iptrec`` command, which is ``python -m iptrec`` as well."""

from __future__ import annotations

import os
import signal
import sys

_EXIT_TERMINATED = 128 + signal.SIGTERM  # as a shell tells it
# What says how many threads numpy's linear algebra starts when it is loaded. Nothing here uses them; they spin
# for a while (a third of the processor time of a short command), and keep the rights that they start with.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def main() -> None:
    """Load the command line and run it.

    Ctrl-C while it loads ends the process without a traceback. SIGTERM unwinds whatever is under way, so that
    no temporary file stays. SIGUSR1 asks a recorder for a copy: before there is one, and elsewhere, it is no
    reason to end.
    """
    _open_standard_streams()
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # under nohup or in the background it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for name in _THREADS:
        os.putenv(
            name, "1"
        )  # for libraries alone: os.environ stays what a command of the user gets
    from iptrec.cli import main as run  # noqa: PLC0415 - takes a tenth of a second

    signal.signal(signal.SIGINT, interrupt)
    run()


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
