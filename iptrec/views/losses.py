"""What a recording lacks, in words: events of traces, and what is told beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.names import counted
from iptrec.recording.kinds import no_room
from iptrec.recording.rows import left_out, lost_beside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.recording.rows import Loss, Recording
    from iptrec.views.timestamps import Clock

HOLES: Final = {
    "rules-gone": "somebody removed our TRACE rules; they were put back",
    "logger-switched": "somebody switched net.netfilter.nf_log; it was switched back",
}
# By `Recording.running`
NOT_CLOSED: Final = {
    True: "still recording",
    False: "cut off: the recorder did not end cleanly",
    None: "not closed: cut off, or still recording",
}


def how_many(losses: Sequence[Loss]) -> str:
    """What is missing of events, in words; a loss without a count is not to look like none."""
    holes = [loss for loss in losses if loss.how in HOLES]
    lost = sum(loss.events or 0 for loss in losses)
    words = [f"{counted(lost, 'event')} lost"] if lost else []
    if len(losses) > len(holes) and not lost:
        words.append("events lost, not known how many")
    if holes:
        words.append(f"not traced for {_within_ns(holes) / 1e9:.1f} s")
    return ", ".join(words)


def _within_ns(holes: Iterable[Loss]) -> int:
    """How long there was any hole: several families may have one at a time."""
    found, until = 0, 0
    for first, last in sorted((one.first_ns, one.last_ns) for one in holes):
        found += max(0, last - max(first, until))
        until = max(until, last)
    return found


def beside(recording: Recording, clock: Clock) -> Iterator[str]:
    """Of which streams beside the events something is missing, and between which times."""
    found: dict[str, list[Loss]] = {}
    for stream, loss in lost_beside(recording):
        found.setdefault(stream.kind, []).append(loss)
    for kind, losses in found.items():
        first, last = losses[0].first_ns, losses[-1].last_ns
        times = f"between {clock.full(first)} and {clock.full(last)}"
        yield f"{no_room(kind)}: {counted(len(losses), 'time')} {times}"


def not_packed(recording: Recording) -> Iterator[str]:
    """What `iptrec pack` left out, if it did."""
    if left := left_out(recording):
        packets, events = counted(left.packets, "packet"), counted(left.events, "event")
        yield f"by iptrec pack: {packets} that nobody chose, {events}; all counts are of what is left"


def as_line(loss: Loss, clock: Clock) -> str:
    """How many events, between which times, and how."""
    count = "some" if loss.events is None else f"{loss.events:,}"
    how = HOLES.get(loss.how, loss.how)
    return f"{count} between {clock.full(loss.first_ns)} and {clock.full(loss.last_ns)} ({how})"
