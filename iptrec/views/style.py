"""What several texts print alike: colours, and the time of day."""

from __future__ import annotations

from iptrec.views.packet_json import iso_time


def styled(text: str, style: str, *, colour: bool) -> str:
    """A text in a style (SGR), if there are to be colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style else text


def clock(time_ns: int) -> str:
    """The time of day, UTC, with milliseconds."""
    text = iso_time(time_ns).partition("T")[2]
    return text[:12] if text else str(time_ns)
