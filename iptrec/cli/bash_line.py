"""The command line that bash completes, read as bash reads it, and words quoted so as to be taken literally."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_PLAIN: Final = re.compile(r"[\w@%+=:,./-]", re.ASCII)
_IN_DOUBLE: Final = '$`"\\'  # what a backslash is for within these
_BLANK: Final = " \t\n"


@dataclass(frozen=True, slots=True)
class Line:
    """``words`` before the one that is completed, which is ``word``, all without their quotes.

    ``kept``: the beginning of it that stays as it is typed, such as "--chain=". ``quote``: what is open
    there, "" for nothing.
    """

    words: list[str]
    word: str
    kept: str
    quote: str

    def reply(self, value: str) -> str | None:
        """What stands for a word behind ``kept``; None where it cannot be typed there."""
        if not value.startswith(self.kept):
            return None
        rest = value[len(self.kept) :]
        if self.quote == "'":
            return rest.replace("'", "'\\''")
        if self.quote == '"':
            # Of the history of bash there is no word that is safe from it here.
            return None if "!" in rest else re.sub(r'[$`"\\]', r"\\\g<0>", rest)
        return "".join(
            one if _PLAIN.match(one) or not one.isascii() else f"\\{one}" for one in rest
        )


def read(line: str, last: str = "") -> Line | None:
    """The line up to the cursor; ``last``: the end of it that bash replaces. None where it is not its end."""
    if not line.endswith(last):
        return None
    words, _ = _split(line)
    before, quote = _split(line[: len(line) - len(last)])
    kept = before[-1] if len(before) == len(words) else ""
    return Line(words[:-1], words[-1], kept, quote)


def _split(line: str) -> tuple[list[str], str]:
    """The words of a line, the last one perhaps empty, and the quote that is open at its end."""
    words, quote, begun = [""], "", False
    characters = iter(line)
    for one in characters:
        if quote == "'" and one != "'":
            words[-1] += one
        elif one == quote:
            quote = ""
        elif one == "\\":
            following = next(characters, "")
            keeps = quote and following not in _IN_DOUBLE
            words[-1] += f"\\{following}" if keeps else following
            begun = True
        elif not quote and one in "'\"":
            quote, begun = one, True
        elif not quote and one in _BLANK:
            if begun:
                words.append("")
            begun = False
        else:
            words[-1] += one
            begun = True
    return words, quote
