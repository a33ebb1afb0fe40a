"""What several texts print alike: colours."""

from __future__ import annotations


def styled(text: str, style: str, *, colour: bool) -> str:
    """A text in a style (SGR), if there are to be colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style else text
