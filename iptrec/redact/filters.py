"""A filter in tcpdump's language: its words but for addresses and names (man 7 pcap-filter)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.redact.maps import UntrueError
from iptrec.redact.names import public
from iptrec.redact.words import Words

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

_TOKEN: Final = re.compile(r"[^\s()]+")
_EXPRESSION: Final = re.compile(r"[a-z0-9\[\]:&|=!<>+*/^%~-]*")
_PART: Final = re.compile(r"[A-Za-z][\w-]*")
_PUBLIC_PART: Final = re.compile(r"0x[0-9a-f]+|tcp-\w+|icmp6?-\w+")


def filter_words(maps: Maps, text: str) -> str:
    """In the place of a filter; a word that is not one of the language is a name."""
    words = Words(maps)

    def change(found: re.Match[str]) -> str:
        word = found[0]
        if words.has_address(word):
            try:
                return words.addresses(word)
            except UntrueError:
                return "redacted"
        parts = _PART.findall(word)
        known = all(one in public().pcap or _PUBLIC_PART.fullmatch(one) for one in parts)
        return word if known and _EXPRESSION.fullmatch(word) else maps.name(word)

    return _TOKEN.sub(change, text)
