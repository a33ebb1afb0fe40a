"""Text from a stranger's file, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text on one line, with all that is not to be printed in visible form: \x1b, \u202e.

    That is what Unicode calls other or separator (C0 and C1 controls, line ends, bidirectional and
    zero-width controls, surrogates, tags, private and unassigned characters), but for the space.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:  # noqa: PLR2004 - one byte
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004 - two bytes
