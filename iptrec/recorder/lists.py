"""Lists of the network that are taken again while packets are traced: ipsets, and routes that changed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iptrec.kernel import ipsets, links, network
from iptrec.kernel.dumps import is_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.kernel.links import WaySocket
    from iptrec.recorder.backend import Evidence

_PERIOD_NS: Final = 1_000_000_000
_SHARE: Final = 200  # looking may take one part in so many of the time
_MOST: Final = 64 << 10  # bytes of a list, two thousand addresses: a longer one is not listed again


class Lists:
    """Looks now and then, and keeps what has changed. ``ways``: tells whether routes have."""

    def __init__(self, evidence: Evidence, ways: WaySocket) -> None:
        self._evidence = evidence
        self._ways = ways
        self._next_ns = 0  # of the monotonic clock
        self._followed = False  # routes and their rules
        self._sets = b""
        self._members: list[ipsets.Said] | None = None

    def begin(self, found: Mapping[str, bytes], since_ns: int) -> None:
        """Look from now on for what is not as it was listed, after a time (epoch)."""
        self._looked_ns = since_ns
        self._followed = any(kind in found for kind in links.WAYS)
        self._keep_sets(found.get("ipsets", b""))

    def look(self, now: int) -> None:
        """Look where it is time to; ``now``: monotonic, ns."""
        if now >= self._next_ns:
            started = time.thread_time_ns()
            self.look_now()
            self._next_ns = now + max(_PERIOD_NS, _SHARE * (time.thread_time_ns() - started))

    def look_now(self) -> None:
        """Look at once."""
        begun = time.time_ns()
        self._look_at_sets()
        self._look_at_routes()
        self._looked_ns = begun

    def _look_at_sets(self) -> None:
        if self._members is None:
            return
        listing = ipsets.dumps(_MOST)["ipsets"]
        if listing == self._sets:
            return
        before = self._members
        self._keep_sets(listing)
        if self._members not in (None, before):
            self._snapshot("ipsets", network.SOURCES["ipsets"], listing)

    def _keep_sets(self, listing: bytes) -> None:
        small = len(listing) <= _MOST and is_whole(listing)
        self._sets, self._members = listing, ipsets.members(listing) if small else None

    def _look_at_routes(self) -> None:
        """A list that is cut tells that nobody knows from here on.

        One that reads as before is kept as well: it tells that something came and went.
        """
        if self._followed and self._ways.changed():
            found = links.dumps(links.WAYS, _MOST)
            self._followed = all(map(is_whole, found.values()))
            for kind, content in found.items():
                self._snapshot(kind, "rtnetlink", content)

    def _snapshot(self, kind: str, source: str, content: bytes) -> None:
        self._evidence.snapshot(kind, source, content, after_ns=self._looked_ns)
