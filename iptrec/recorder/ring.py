"""Keeps the last events only (--ring), and writes out what there is when somebody asks (SIGUSR1)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iptrec.errors import IptrecError
from iptrec.kernel import network, sysctls
from iptrec.recording.compressed import PART

if TYPE_CHECKING:
    from iptrec.recorder.backend import Evidence
    from iptrec.recorder.options import Options, Report

_RING_NS: Final = 1_000_000_000  # the least time between two looks at the ring
_RING_SHARE: Final = 100  # one part in so many of the ring's time may pass between them
_COUNT_NS: Final = 1_000_000_000  # the least time between two readings of counters
_COUNTS: Final = 8  # in the time that a ring lasts
_CROWDED: Final = 1.25  # of its size: a look at once


class Ring:
    """The ring of a recording; without --ring everything is kept."""

    def __init__(self, options: Options, report: Report, evidence: Evidence) -> None:
        self._report = report
        self._evidence = evidence
        self._there = bool(options.ring)
        self._most_bytes = options.ring_bytes
        self._lasts_ns = int((options.ring_s or 0) * 1e9)
        self._trim_ns = self._count_ns = 0
        self._counted_ns = time.time_ns()

    def trim(self, now: int) -> None:
        """Let go of what is too much or too old: now and then, and at once where much comes.

        ``now``: of the monotonic clock, ns.
        """
        if self._there and (now >= self._trim_ns or self._crowded):
            self._trim_ns = now + max(_RING_NS, self._lasts_ns // _RING_SHARE)
            lasts_ns = self._lasts_ns or None
            went = self._evidence.writer.trim(most_bytes=self._most_bytes, lasts_ns=lasts_ns)
            if went:
                self._evidence.streams.tell_again()
            if went or lasts_ns:
                self._count(now)

    def _count(self, now: int) -> None:
        """Read the kernel's counters: as they are now, for when what comes now will be the oldest."""
        if now >= self._count_ns:
            self._count_ns = now + max(_COUNT_NS, self._lasts_ns // _COUNTS)
            before, self._counted_ns = self._counted_ns, time.time_ns()
            source = network.SOURCES["counters"]
            self._evidence.snapshot("counters", source, sysctls.counters(), after_ns=before)

    @property
    def _crowded(self) -> bool:
        most = self._most_bytes
        return most is not None and self._evidence.writer.event_bytes > _CROWDED * most

    def copy(self) -> None:
        """Write what there is by now into a file of its own beside the recording."""
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        output = self._evidence.writer.path
        stem = output.name.removesuffix(PART) if output.name.endswith(PART) else output.stem
        path = output.with_name(f"{stem}-{moment}{output.suffix}")
        try:
            self._evidence.writer.copy(path, time.time_ns(), "SIGUSR1")
        except IptrecError as error:
            self._report.note(error.typed)
        else:
            self._report.note(f"written: {path}")
