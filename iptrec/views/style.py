"""What several texts print alike: colours, and lines that fit the terminal."""

from __future__ import annotations

import textwrap
from typing import Final

_ROOM: Final = 30  # columns that the rest of a text wants to stand below its beginning
_INDENT: Final = 8


def styled(text: str, style: str, *, colour: bool) -> str:
    """A text in a style (SGR), if there are to be colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if colour and style else text


def wrapped(head: str, text: str, width: int | None, most: int | None = None) -> str:
    """The text behind its head: one line, or on a terminal of a ``width`` as many as it takes, aligned.

    ``most``: lines on a terminal, the rest is cut. What has no blanks is broken only there: it may be copied.
    """
    if width is None or len(head) + len(text) <= width:
        return (head + text).rstrip()
    indent = len(head) if width - len(head) >= _ROOM else min(_INDENT, len(head))
    return textwrap.fill(
        text,
        max(width, indent + 1),
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_long_words=most is not None,
        break_on_hyphens=False,
        max_lines=most,
        placeholder=" ...",
    )
