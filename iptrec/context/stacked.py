"""Which interfaces lie below which: ports below their bridge, Ethernet below its VLANs.

A packet that leaves by one of them may be dropped at another one below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iptrec.context.datagrams import datagrams
from iptrec.decode import snapshots
from iptrec.decode.rtnetlink import LAYOUTS, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Recording

_HIGHEST = 8  # storeys


class Stacked:
    """The interfaces of one namespace of a recording that lie below others, at any time of it.

    ``ports``: those of bridges and bonds, by their indexes.
    """

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._above: dict[int, set[int]] = {}
        self.ports: set[int] = set()
        self._read(
            row
            for one in recording.snapshots("links")
            if one.namespace == namespace
            for row in snapshots.described_links(one.content, one.media)
        )
        told = datagrams(recording, "rtnetlink", namespace)
        self._read(row for _, one in told for row in rows(LAYOUTS["links"], one) if "name" in row)

    def below(self, lower: int, upper: int) -> bool:
        """Whether the one lies below the other one, or is it."""
        reached = {lower}
        for _ in range(_HIGHEST):
            if upper in reached:
                return True
            reached = set().union(*(self._above.get(one, ()) for one in reached))
        return False

    def _read(self, links: Iterator[dict[str, Any]]) -> None:
        for row in links:
            index = int(row["index"])
            master, link = row.get("master"), row.get("link")
            if master:
                self.ports.add(index)
                self._above.setdefault(index, set()).add(int(master))
            if link and link != index:
                self._above.setdefault(int(link), set()).add(index)
