"""The command line as a user types it: answered in this process, or by one of its own.

A process takes a quarter of a second to load Python and numpy, which is most of what a test would do. `iptrec`
asks the same `main` here, with pipes in the place of its stdout and stderr, and leaves nothing changed behind.
`program` starts a process, for what only one has: signals, a charset, limits, another user; it, too, need not
load what tests/warm.py has loaded. tests/test_command.py compares them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import locale
import os
import signal
import subprocess
import sys
import threading
import traceback
from unittest import mock

import typer.main
import warm
from warm import IPTREC

# The command line; it prints an empty line once it answers signals. What is before is Python's own start.
ANSWERING = (sys.executable, "-c", """
import iptrec.__main__ as started
streams = started._open_standard_streams
started._open_standard_streams = lambda: (print(flush=True), streams())
started.main()
""")  # fmt: skip
_get_command = functools.cache(typer.main.get_command)  # 20 ms each time
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def program(*arguments, **options):
    """Ask a process of its own; ``options`` as for `subprocess.run`."""
    return warm.run([*IPTREC, *map(str, arguments)], capture_output=True, text=True, **options)


def iptrec(*arguments, umask=None):
    """Ask in this process: what `program` would return."""
    words = list(map(str, arguments))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_as_before())
        if umask is not None:
            stack.callback(os.umask, os.umask(umask))
        stack.enter_context(mock.patch.object(sys, "argv", ["iptrec", *words]))
        stack.enter_context(mock.patch.object(typer.main, "get_command", _get_command))
        stdout = stack.enter_context(_Captured("stdout", 1))
        stderr = stack.enter_context(_Captured("stderr", 2))
        status = _status()
    return subprocess.CompletedProcess(words, status, stdout.text(), stderr.text())


def _status():
    """The status that the process would have; what Python says of an error at the end is on stderr."""
    from iptrec.__main__ import main

    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as Python does it
        traceback.print_exc()
    else:
        return 0
    return 1


@contextlib.contextmanager
def _as_before():
    """Signals, environment, directory and umask are afterwards what they were."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    directory = os.getcwd()  # noqa: PTH109
    umask = os.umask(0)
    os.umask(umask)
    with mock.patch.dict(os.environ):
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            assert os.umask(umask) == umask
            assert os.getcwd() == directory  # noqa: PTH109


class _Captured:
    """A pipe in the place of a descriptor and of Python's stream on it, read by a thread."""

    def __init__(self, name, descriptor):
        self._name = name
        self._descriptor = descriptor
        self._data = b""

    def __enter__(self):
        getattr(sys, self._name).flush()
        self._kept = os.dup(self._descriptor)
        reading, writing = os.pipe()
        os.dup2(writing, self._descriptor)
        os.close(writing)
        self._thread = threading.Thread(target=self._read, args=(reading,))
        self._thread.start()
        self._stream = io.TextIOWrapper(
            open(self._descriptor, "wb", closefd=False),
            encoding=locale.getpreferredencoding(do_setlocale=False),
            errors="strict" if self._name == "stdout" else "backslashreplace",
            line_buffering=self._name == "stderr",
        )
        self._patch = mock.patch.object(sys, self._name, self._stream)
        self._patch.start()
        return self

    def __exit__(self, *_):
        self._patch.stop()
        self._stream.close()
        os.dup2(self._kept, self._descriptor)
        os.close(self._kept)
        self._thread.join()

    def _read(self, reading):
        with open(reading, "rb") as pipe:  # noqa: PTH123 - no name
            self._data = pipe.read()

    def text(self):
        """What was written, its ends of lines as `subprocess` makes them; what is not UTF-8 is escaped."""
        text = self._data.decode(errors="backslashreplace")
        return text.replace("\r\n", "\n").replace("\r", "\n")
