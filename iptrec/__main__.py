"""The ``iptrec`` command, which is ``python -m iptrec`` as well."""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command line and run it. Ctrl-C while it loads ends the process without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # under nohup or in the background it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from iptrec.cli import main as run  # noqa: PLC0415 - takes a tenth of a second

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
