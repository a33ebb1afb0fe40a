"""A process that shows a recording while it grows. It has no rights: what it decodes comes from strangers."""

from __future__ import annotations

import os
import subprocess
from typing import IO, TYPE_CHECKING, Final

from iptrec.errors import EXIT_DONE

if TYPE_CHECKING:
    from collections.abc import Sequence


_PATIENCE_S: Final = 5.0


class Follower:
    """``iptrec show --follow``; ``arguments``: the recording's path, options of `show`, a filter.

    It inherits a descriptor of the recording, opens it, and becomes a user without rights before it reads what
    was recorded. It has a session of its own: Ctrl-C is for the recorder to answer, and nothing can be typed
    into the recorder's terminal (TIOCSTI).
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._child: subprocess.Popen[bytes] | None = None

    def start(
        self, descriptor: int, pipe: IO[bytes] | None = None, open_for_life: Sequence[int] = ()
    ) -> None:
        """Begin to follow; ``descriptor`` is the recording's.

        Into a ``pipe`` it writes without a word on stderr. ``open_for_life``: descriptors that it inherits, so
        that their pipes tell when it has ended.
        """
        from iptrec.kernel.process import iptrec

        beside = f"--held={descriptor}", f"--parent={os.getpid()}"
        show = iptrec("show", "--follow", *beside, *self._arguments)
        self._child = subprocess.Popen(
            show,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.DEVNULL if pipe else None,
            pass_fds=(descriptor, *open_for_life),
            start_new_session=True,
        )

    def wait(self) -> int:
        """Until all of a closed recording is shown; Ctrl-C ends it at once. Returns the exit status."""
        if self._child is None:
            return EXIT_DONE
        try:
            return self._child.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, whatever it has still to show."""
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:  # Python may lose the signal where it loads a module
                self._child.kill()
                self._child.wait()
