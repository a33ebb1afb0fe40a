"""Lists the ipsets again and again while packets are traced: the kernel does not tell how members change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iptrec.kernel import ipsets, network

if TYPE_CHECKING:
    from iptrec.recorder.backend import Evidence

_PERIOD_NS: Final = 1_000_000_000
_SHARE: Final = 200  # a look may take one part in so many of the time
_MOST: Final = 64 << 10  # bytes of a list, two thousand addresses: of more nobody looks


class Sets:
    """The ipsets each time that they have changed, while they are small.

    ``listing``: as it was recorded in the beginning.
    """

    def __init__(self, evidence: Evidence, listing: bytes) -> None:
        self._evidence = evidence
        self._looked_ns = 0  # that list is older than this object
        self._next_ns = 0  # of the monotonic clock
        self._keep(listing)

    def _keep(self, listing: bytes) -> None:
        self._listing = listing
        small = len(listing) <= _MOST and ipsets.is_whole(listing)
        self._members = ipsets.members(listing) if small else None

    def look(self, now: int) -> None:
        """Look whether it is time to (``now``: monotonic, ns), and keep what has changed."""
        if self._members is None or now < self._next_ns:
            return
        begun, started = time.time_ns(), time.thread_time_ns()
        listing = ipsets.dumps(_MOST)["ipsets"]
        if listing != self._listing:
            before = self._members
            self._keep(listing)
            if self._members not in (None, before):
                self._evidence.snapshot(
                    "ipsets", network.SOURCES["ipsets"], listing, after_ns=self._looked_ns
                )
        self._looked_ns = begun
        self._next_ns = now + max(_PERIOD_NS, _SHARE * (time.thread_time_ns() - started))
