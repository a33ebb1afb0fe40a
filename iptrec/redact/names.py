"""Names in the place of those of a recording: of interfaces, chains, tables, sets, hosts, users, in texts.

A name is mapped character by character: a letter becomes a letter, a digit a digit, by a random function of the
characters before it. So it is one to one, as long as it was, and what begins alike does so afterwards: the
wildcards of interfaces stay true. Parts that everybody has stay: `public.toml` lists them.
"""

from __future__ import annotations

import functools
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.redact.key import Key

# Hexadecimal and base32 (the hashes of docker and kube-proxy) stay what they are.
_CLASSES: Final = (
    "abcdef",
    "ghijklmnopqrstuvwxyz",
    "ABCDEF",
    "GHIJKLMNOPQRSTUVWXYZ",
    "234567",
    "0189",
)
_CLASS_OF: Final = {one: some for some in _CLASSES for one in some}
_SEGMENTS: Final = re.compile(r"[A-Za-z0-9\u0080-\U0010ffff]+")
_WORDS: Final = re.compile(r"\S+")
_BLOCK: Final = 64  # code points whose UTF-8 differs in the last byte alone
_ANONYMOUS: Final = re.compile(r"__(?:set|map|objmap|chain)\d+")  # nf_tables' own
_STAY: Final = frozenset(
    {"Cs", "Zs", "Zl", "Zp"}
)  # bytes that are not UTF-8; what programs may split at
_CACHED: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Public:
    """What everybody has. ``begins``: of whole names. ``stems``: of parts, and what stays behind them."""

    words: frozenset[str]
    prose: frozenset[str]
    values: frozenset[str]
    options: frozenset[str]
    nft: frozenset[str]
    pcap: frozenset[str]
    begins: tuple[str, ...]
    stems: tuple[tuple[str, str], ...]


@functools.cache
def public() -> Public:
    """Those of `public.toml`."""
    told = tomllib.loads(files("iptrec.redact").joinpath("public.toml").read_text(encoding="utf-8"))
    stems = sorted(told["stems"].items(), key=lambda one: -len(one[0]))
    listed = {
        name: frozenset(told[name].split())
        for name in ("words", "prose", "values", "options", "nft", "pcap")
    }
    return Public(**listed, begins=tuple(told["begins"].split()), stems=tuple(stems))


class Names:
    """The map. ``kept``: every name stays."""

    def __init__(self, key: Key, *, kept: bool = False, always: Iterable[str] = ()) -> None:
        self._key = key
        self._kept = kept
        self._always = frozenset(always)
        self._public = public()
        self._known: dict[str, str] = {}
        self._orders: dict[tuple[str, str], str] = {}

    def __call__(self, name: str) -> str:
        """In the place of a name."""
        if self._kept:
            return name
        found = self._known.get(name)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            found = self._known[name] = self._mapped(name)
        return found

    def prose(self, text: str) -> str:
        """In the place of a comment: its words, but for common ones."""
        return _WORDS.sub(lambda one: self._word(one[0]), text)

    def _word(self, word: str) -> str:
        segments = _SEGMENTS.findall(word)
        if all(one.lower() in self._public.prose or one in self._public.words for one in segments):
            return word
        return self(word)

    def _mapped(self, name: str) -> str:
        if (
            name in self._always
            or name.startswith(self._public.begins)
            or _ANONYMOUS.fullmatch(name)
        ):
            return name
        return _SEGMENTS.sub(lambda one: self._segment(name[: one.start()], one[0]), name)

    def _segment(self, before: str, segment: str) -> str:
        stays = self._stays(segment)
        if stays == len(segment):
            return segment
        found = segment
        while True:
            found = found[:stays] + self._characters(before, found, stays)
            if stays or not self._stays(found):
                return found  # else it would be taken for a part that stays: once more, still one to one

    def _stays(self, segment: str) -> int:
        """How many characters of a part of a name everybody has."""
        if segment in self._public.words:
            return len(segment)
        for stem, characters in self._public.stems:
            if segment.startswith(stem):
                rest = segment[len(stem) :]
                return len(segment) if not set(rest) - set(characters) else len(stem)
        return 0

    def _characters(self, before: str, segment: str, start: int) -> str:
        return "".join(
            self._character(before + segment[:at], segment[at]) for at in range(start, len(segment))
        )

    def _character(self, before: str, character: str) -> str:
        some = _CLASS_OF.get(character)
        if some is None:
            some = _alike(character)
        return self._order(before, some)[some.index(character)]

    def _order(self, before: str, some: str) -> str:
        at = before, some
        if at not in self._orders:
            if len(self._orders) >= _CACHED:
                self._orders.clear()
            told = f"{before}\0".encode("utf-8", "surrogatepass")
            mixed = sorted(
                some,
                key=lambda one: self._key.digest(
                    "name", told + one.encode("utf-8", "surrogatepass"), 8
                ),
            )
            self._orders[at] = "".join(mixed)
        return self._orders[at]


@functools.lru_cache(1 << 12)
def _alike(character: str) -> str:
    """Those that a character may become: of its category, so that none becomes a blank or is hidden."""
    kind, base = unicodedata.category(character), ord(character) // _BLOCK * _BLOCK
    if kind in _STAY:
        return character
    some = map(chr, range(base, base + _BLOCK))
    return "".join(one for one in some if unicodedata.category(one) == kind)
