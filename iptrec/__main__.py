"""The ``iptrec`` command, which is ``python -m iptrec`` as well."""

from __future__ import annotations

import signal
import sys

_EXIT_TERMINATED = 128 + signal.SIGTERM  # as a shell tells it


def main() -> None:
    """Load the command line and run it.

    Ctrl-C while it loads ends the process without a traceback. SIGTERM unwinds whatever is under way, so that
    no temporary file stays. SIGUSR1 asks a recorder for a copy: before there is one, and elsewhere, it is no
    reason to end.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # under nohup or in the background it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))
    signal.signal(signal.SIGUSR1, lambda *_: None)
    from iptrec.cli import main as run  # noqa: PLC0415 - takes a tenth of a second

    signal.signal(signal.SIGINT, interrupt)
    run()


if __name__ == "__main__":
    main()
