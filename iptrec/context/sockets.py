"""On which ports any socket may have taken packets while it was recorded.

Lists of the beginning and of the end, and the sockets that were closed in between: who was in none of them was
never there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from iptrec.context.datagrams import datagrams
from iptrec.decode import snapshots, sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Recording

    _Rows = dict[int, dict[str, Any]]

_PROTOCOLS: Final = (6, 17)
_IPVS: Final = "net/ipv4/vs/conntrack"  # takes packets behind INPUT, for which there is no socket


class Sockets:
    """Those of one namespace of a recording that is closed."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._recording = recording
        self._namespace = namespace

    @functools.cached_property
    def ports(self) -> frozenset[tuple[int, int]] | None:
        """Protocol and port of each; None where there may have been others."""
        recording = self._recording
        lists = [
            sockets.listed(one.content)
            for one in recording.snapshots("sockets")
            if one.namespace == self._namespace
        ]
        streams = [
            one.id
            for one in recording.streams
            if (one.kind, one.namespace) == ("sockets", self._namespace)
        ]
        lost = any(one.stream in streams for one in recording.losses)
        if len(lists) < 2 or None in lists or not streams or lost or not recording.facts.closed:  # noqa: PLR2004
            return None
        if self._balanced():
            return None
        found = {one for listed in lists if listed for one in listed}
        return frozenset(
            found | {(protocol, port) for port in set(self._closed()) for protocol in _PROTOCOLS}
        )

    @functools.cached_property
    def listed(self) -> tuple[_Rows, _Rows]:
        """The first and the last list, by the sockets' cookies; see `decode.sockets.rows`."""
        found = [
            {row["cookie"]: row for row in sockets.rows(one.content)}
            for one in self._recording.snapshots("sockets")
            if one.namespace == self._namespace
        ]
        return (found[0], found[-1]) if found and self.ports is not None else ({}, {})

    def _balanced(self) -> bool:
        return any(
            _IPVS in snapshots.counters(one.content)
            for one in self._recording.snapshots("sysctls")
            if one.namespace == self._namespace
        )

    def _closed(self) -> Iterator[int]:
        for _, datagram in datagrams(self._recording, "sockets", self._namespace):
            yield from sockets.closed(datagram)
