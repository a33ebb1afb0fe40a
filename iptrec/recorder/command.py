"""The command that a recording lasts as long as."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from iptrec.errors import EXIT_DONE, UsageError, strerror
from iptrec.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from iptrec.recorder.signals import Wake


class Command:
    """Runs in the namespace ``outside`` (a descriptor; None: where we are), as whoever made this object.

    ``arguments`` are empty where there is no command: then nothing is started, and it never ends.
    ``stdout``: as `subprocess.Popen` takes it.
    """

    def __init__(
        self, arguments: Sequence[str], outside: int | None, stdout: int | None = None
    ) -> None:
        self._arguments = arguments
        self._stdout = stdout
        self._outside = outside
        self._groups = os.getgroups()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, undo: ExitStack, wake: Wake) -> str:
        """Start it; ``undo`` ends it. Raises `UsageError` where it cannot be run.

        Not where a signal came that it could not hear of: that one's name, else "". To be called while the
        process has no threads: that makes preexec_fn safe.
        """
        if not self._arguments:
            return ""
        if stopped := wake.stopped():
            return stopped
        try:
            child = subprocess.Popen(
                self._arguments,
                env=os.environ,
                stdout=self._stdout,
                preexec_fn=None if self._outside is None else self._leave,  # noqa: PLW1509
                # Handling files as the user behind sudo took on that user's groups.
                extra_groups=self._groups if self._groups != os.getgroups() else None,
            )
        except OSError as error:
            found = not isinstance(error, FileNotFoundError | PermissionError)
            advice = "" if found else "; give a program in PATH, or its path"
            raise UsageError(
                f"cannot run {self._arguments[0]}: {strerror(error)}{advice}"
            ) from None
        except subprocess.SubprocessError:  # of preexec_fn
            raise UsageError(
                f"cannot run {self._arguments[0]}: its network namespace cannot be entered; it needs root"
            ) from None
        self._child = child
        undo.callback(child.terminate)  # does nothing to one that has ended
        wake.stopped()  # what came until now stops us as well
        wake.beside_command = True
        return ""

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child is not None and self._child.poll() is not None

    def status(self, reason: str) -> int:
        """Wait for its end; its exit status as a shell gives it.

        ``reason``: why the recording ended. Where it was not the command, its status is ours: 0.
        """
        if self._child is None:
            return EXIT_DONE
        code = self._child.wait()
        if reason != "command":
            return EXIT_DONE
        return code if code >= 0 else 128 - code

    def _leave(self) -> None:
        assert self._outside is not None  # noqa: S101 - for the type checker
        netns.enter(self._outside)
