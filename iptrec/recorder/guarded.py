"""Keeps a guardian at our side."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.kernel.undo.guardian import Guardian
    from iptrec.kernel.watch import Watch
    from iptrec.recorder.options import Report

_UNGUARDED_NS: Final = 500_000_000  # before another guardian is started


class Guarded:
    """Starts the guardian again where it was killed, as soon as no watch is at work: it is a fork.

    Not at once: whoever kills both does so one after the other, and means both.
    """

    def __init__(self, guardian: Guardian, watches: Sequence[Watch], report: Report) -> None:
        self._guardian = guardian
        self._watches = watches
        self._report = report
        self._since_ns: int | None = None  # nobody guards

    def keep(self, now: int) -> None:
        """Look whether the guardian is there; to be called again and again (``now``: monotonic, ns)."""
        if self._guardian.ended():
            self._since_ns = now
        if self._since_ns is None or now < self._since_ns + _UNGUARDED_NS:
            return
        with contextlib.ExitStack() as resting:
            for watch in self._watches:
                if not watch.working.acquire(blocking=False):
                    return
                resting.callback(watch.working.release)
            self._since_ns = None
            self._renew()

    def _renew(self) -> None:
        try:
            self._guardian.renew()
        except HostError as error:
            self._report.note(
                f"the guardian ended and cannot be started again: {error}; if this process is killed as"
                " well, run iptrec cleanup"
            )
        else:
            self._report.note("somebody killed the guardian: started again")
