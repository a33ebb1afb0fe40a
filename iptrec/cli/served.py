"""What a service manager learns of a recording: when it has begun, how far it is, that it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iptrec.names import counted

if TYPE_CHECKING:
    from iptrec.kernel.service import Service
    from iptrec.recorder.options import Progress

_BETWEEN_S: Final = 5.0  # a line for people; `systemctl status` is not asked more often


class Served:
    """Tells it; to be called whenever there is progress."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._next_s: float | None = None  # not begun

    def begun(self) -> None:
        """Our rules are in place, and events are recorded."""
        self._service.tell(READY="1", STATUS="recording")
        self._next_s = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """How far it is, now and then; that it ends, at once."""
        if self._next_s is None:
            return
        so_far = f"{counted(progress.events, 'event')}, {progress.lost:,} lost, {progress.file_bytes:,} bytes"
        if progress.reason:
            self._next_s = None
            self._service.tell(STOPPING="1", STATUS=f"stopping ({progress.reason}): {so_far}")
        elif (now := time.monotonic()) >= self._next_s:
            self._next_s = now + _BETWEEN_S
            self._service.tell(STATUS=f"recording: {so_far}")
