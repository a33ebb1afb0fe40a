"""Text from a stranger's file, made safe for a terminal."""

from __future__ import annotations

import re

# C0 and C1 controls, line separators, bidirectional controls, zero-width characters, surrogates
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with all that is not to be printed in visible form: \x1b, \u202e."""
    return _UNSAFE.sub(_visible, text) if _UNSAFE.search(text) else text


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - one byte
