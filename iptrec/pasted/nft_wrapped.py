"""Lines of nft monitor trace that a mail or a web page has changed, as they were printed.

A mail breaks lines before the word that would go beyond its last column, mostly the 72nd to the 80th. What nft
prints is longer, or ends with a verdict: a line that is neither goes on where the next word would not have
fitted. The lines of a rule that nft breaks itself, in an anonymous chain, begin with tabs.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BEGINS: Final = re.compile(rb"\btrace id [0-9a-f]{1,8} ")
_ENDED: Final = re.compile(
    rb"(?:\(verdict [^()]+\)| (?:policy|verdict) [a-z]+(?: (?:meta )?mark \S+)?)\s*$"
)
_LEAST, _MOST = (
    64,
    80,
)  # columns: of a line that was wrapped with the word that did not fit, and without it
_LONGEST: Final = 1 << 16  # bytes

_ENTITIES: Final = re.compile(r"&(?:quot|#34|#39|lt|gt|amp);")
_QUOTES: Final = str.maketrans({"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"'})


def straightened(line: str) -> str:
    """A line with plain quotes: a page may have made others of all of them, or `&quot;`."""
    if "&" in line and '"' not in line:
        line = _ENTITIES.sub(lambda found: html.unescape(found[0]), line)
    return line if '"' in line else line.translate(_QUOTES)


def unwrapped(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, those of an event as one."""
    whole = last = b""
    for line in lines:
        if whole and _goes_on(whole, last, line):
            whole, last = b" ".join((whole.rstrip(), line)), line
            continue
        if whole:
            yield whole
        whole = last = line if _BEGINS.search(line) else b""
        if not whole:
            yield line
    if whole:
        yield whole


def _goes_on(whole: bytes, last: bytes, line: bytes) -> bool:
    """Whether a line belongs to a ``whole`` one, of which ``last`` is the last part so far."""
    if not line or line[:1].isspace() or len(whole) > _LONGEST or _BEGINS.search(line):
        return False
    size = len(last.rstrip())
    word = len(line.split(None, 1)[0])
    return size <= _MOST and size + 1 + word > _LEAST and not _ENDED.search(whole)
