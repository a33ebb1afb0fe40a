"""Where one can begin to read in the middle of a long recording.

Packets are numbered over the whole recording, and how many began before a moment is known only once all
events before it were judged. Who has done that once can note, for each window, what it began with and what
was in it. A later look at some packets reads their windows alone, and says the same of them: with equal
numbers and relations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.names import FAMILIES
from iptrec.packets.relations import REMEMBERED
from iptrec.packets.window import Bookmark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.answers.selection import Selection
    from iptrec.packets.relations import Relations
    from iptrec.packets.window import Window

_MOST_KEPT: Final = (
    2_000  # datagrams that a bookmark names: a long recording has thousands of bookmarks
)


class Span(NamedTuple):
    """Where to begin, and how many windows to read; None: all that come."""

    since: Bookmark | None
    windows: int | None


class Index:
    """Bookmarks of a recording's windows, from the first on; ``whole``: up to the last one."""

    def __init__(self, marks: Sequence[Bookmark] = (), *, whole: bool = False) -> None:
        self.marks = marks
        self.whole = whole

    def learn(self, marks: Sequence[Bookmark], *, whole: bool) -> None:
        """Take these if they are more."""
        if whole or len(marks) > len(self.marks):
            self.marks, self.whole = marks, whole

    def span(self, selection: Selection) -> Span:
        """What must be read to find the packets of a selection."""
        chosen = [at for at, one in enumerate(self.marks) if _may_have(one, selection)]
        known = self.whole or (
            selection.number is not None
            and bool(self.marks)
            and selection.number < self.marks[-1].number + self.marks[-1].packets
        )
        # The number of a path is how many there were before.
        if not known or selection.path is not None:
            return Span(None, None)
        if not chosen:
            return Span(None, 0)
        begin = max(0, min(at - self.marks[at].reach for at in chosen))
        while begin and self.marks[begin].starts is None:
            begin -= 1
        return Span(self.marks[begin] if begin else None, chosen[-1] + 1 - begin)


def bookmark(window: Window, relations: Relations) -> Bookmark:
    """Note a window. ``relations`` are at it."""
    assembly = window.assembly
    begun = window.moment_ns[assembly.rows[assembly.first[: window.decided]]]
    kept = sum(len(one.kept) for one in window.starts)
    timelines = window.resolver.timelines
    changing = any(
        len(one.states) > 1 for family in FAMILIES for one in timelines.loaded(family).values()
    )
    return Bookmark(
        stream=window.stream.id,
        starts=window.starts if kept <= _MOST_KEPT else None,
        number=window.number,
        packets=window.decided,
        # What altered a packet's fate is sought among all packets that are remembered.
        reach=REMEMBERED if changing else relations.reach,
        earliest_ns=int(begun.min()) if len(begun) else 0,
        latest_ns=int(begun.max()) if len(begun) else 0,
    )


def _may_have(one: Bookmark, selection: Selection) -> bool:
    since_ns, until_ns, number = selection.since_ns, selection.until_ns, selection.number
    return (
        one.packets > 0
        and (number is None or one.number <= number < one.number + one.packets)
        and (since_ns is None or one.latest_ns >= since_ns)
        and (until_ns is None or one.earliest_ns < until_ns)
    )
