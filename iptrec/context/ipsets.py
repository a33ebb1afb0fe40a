"""The ipsets over time: as they were listed at the start, at the end, and in between where they are small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.decode import snapshots

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.decode.ipsets import IpSet
    from iptrec.recording.rows import Recording

    Sets = Mapping[str, IpSet]


class IpSets:
    """The sets of one namespace of a recording, by their names.

    What was there between two lists nobody knows: members may have come and gone.
    """

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._lists: list[tuple[int, int, Sets]] = []  # came after, seen at
        sets: Sets = {}
        seen_ns = 0
        for one in recording.snapshots("ipsets"):
            if one.namespace == namespace:
                sets = _read(one.content, one.media, sets)
                after_ns = seen_ns if one.after_ns is None else one.after_ns
                seen_ns = one.time_ns
                self._lists.append((after_ns, seen_ns, sets))

    def at(self, time_ns: tuple[int, int]) -> list[Sets]:
        """All lists that may be those between two times (epoch), in their order."""
        ends = [seen for _, seen, _ in self._lists[1:]]
        return [
            sets
            for number, (after, _, sets) in enumerate(self._lists)
            if (number == 0 or after < time_ns[1])
            and (number == len(ends) or time_ns[0] <= ends[number])
        ]


def _read(content: bytes, media: str, before: Sets) -> Sets:
    """A list, with the same objects as before for what has not changed."""
    read = snapshots.ipsets(content, media)
    return {name: before[name] if before.get(name) == one else one for name, one in read.items()}
