"""``record --metrics``: a process beside the recorder keeps a file of counters for Prometheus.

The recorder has no time for that, nor the right any more to open its own next file (--rotate). It tells the
names of its recordings, a line each, and closes the pipe when it has ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from iptrec.errors import IptrecError, RecordingError, UsageError

if TYPE_CHECKING:
    from iptrec.metrics.textfile import TextFile

_ENDING: Final = ".prom"
EVERY_S: Final = 15.0  # as often as Prometheus asks by default
_PATIENCE_S: Final = 30.0  # for the last counts


class Metrics:
    """A context manager; ``path``: of the file, None if nobody wants one. Raises `IptrecError`.

    ``recording``: what may not be the same file, nor one that node_exporter would read. ``netns``: a label.
    ``ended``: whether the process is gone although the recorder is at work.
    """

    def __init__(self, path: Path | None, recording: Path, netns: str | None) -> None:
        self._path = path
        self._netns = netns or ""
        self._file: TextFile | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._told = ""
        if path is not None and not path.name.endswith(_ENDING):
            raise UsageError(
                f"--metrics {path}: the collector of node_exporter reads files named *{_ENDING} alone"
            )
        if path is not None and _would_be_read(recording, path):
            raise UsageError(
                f"--output {recording}: node_exporter would read it as it does {path.name};"
                f" give the recording another name than *{_ENDING}"
            )

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        from iptrec.kernel.process import iptrec
        from iptrec.metrics.textfile import TextFile

        # Opened while there are rights to.
        self._file = TextFile(self._path)
        words = iptrec(str(self._path), str(EVERY_S), self._netns, module="iptrec.metrics.keeper")
        self._child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._child.stdout is not None  # noqa: S101 - for the type checker
        with self._child.stdout as answer:  # a line; nothing where it can write
            if said := answer.readline().decode("utf-8", "replace").strip():
                self._end()
                raise RecordingError(f"--metrics: {said}")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def tell(self, recording: str) -> None:
        """The name of the recording that is being written, whenever it may be another one."""
        if self._child is not None and recording != self._told:
            self._told = recording
            self._write(os.path.abspath(recording) + "\n")  # noqa: PTH100 - resolve would follow links

    @property
    def ended(self) -> bool:
        """See above."""
        return self._child is not None and self._child.poll() is not None

    def _write(self, text: str) -> None:
        assert self._child is not None and self._child.stdin is not None  # noqa: PT018, S101
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(os.fsencode(text))
            self._child.stdin.flush()

    def _end(self) -> None:
        """Wait for the last counts."""
        if self._child is None:
            return
        assert self._child.stdin is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.returncode < 0:
            self._abandon()
        self._child = None

    def _abandon(self) -> None:
        """Let the file not say for ever that the recorder is at work, unless another one keeps it now."""
        from iptrec.metrics.exposition import abandoned, is_at_work

        assert self._file is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(UsageError), contextlib.closing(self._file):
            try:
                text = self._file.take()
                if is_at_work(text):
                    self._file.write(abandoned(text))
                elif not text:  # somebody has removed it
                    self._file.remove()
            except UsageError:
                raise
            except IptrecError:  # somebody else's directory: there are no rights left
                said = f"{self._path} still says that the recorder is at work; delete it"
                print(f"iptrec record: --metrics: {said}", file=sys.stderr)


def _would_be_read(recording: Path, path: Path) -> bool:
    """Whether a recording would lie beside the file of that path with its ending, or be that file."""
    with contextlib.suppress(OSError):
        if recording.samefile(path):
            return True
    for one in (recording, recording.resolve()):
        with contextlib.suppress(OSError):
            if one.name.endswith(_ENDING) and one.parent.samefile(path.parent):
                return True
    return False
