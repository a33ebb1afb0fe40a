"""Whether a line of nft's text is another one with what stands for its words.

Which words may differ is told by what stands before them; no keyword and no number may (see `compare_save`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.redact import raw_payload
from iptrec.redact.maps import UntrueError
from iptrec.redact.pairs import NUMBER
from iptrec.redact.words import length_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.redact.pairs import Pairs

_WORD: Final = re.compile(
    r'"(?:\\.|[^"\\])*"\*?|@(?:ll|nh|th|ih),\d+,\d+|[{}();,]|=(?!=)|[^\s"{}();,]+', re.ASCII
)
_QUOTED: Final = re.compile(r'"(.*)"(\*?)', re.DOTALL)
_MASKED: Final = re.compile(r"& (\S*[.:]\S*) (?:==|!=) ([0-9a-fA-F]*[.:][0-9a-fA-F.:]*)(?=\s|$)")
# Before a name without quotes: of a chain, an interface, an object, and of what a host has names for
_NAMED: Final = frozenset({"jump", "goto", "device", "name", "to"})
_HOSTS_WORDS: Final = frozenset(
    {
        "mark",
        "label",
        "rtclassid",
        "realm",
        "iifgroup",
        "oifgroup",
        "classid",
        "skuid",
        "skgid",
        "iif",
        "oif",
    }
)
_OBJECTS: Final = frozenset(
    {"chain", "set", "map", "flowtable", "counter", "quota", "limit", "helper", "timeout", "expectation",
    "secmark", "synproxy", "meter"}
)  # fmt: skip
_FAMILIES: Final = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})
_PROSE: Final = frozenset({"comment", "prefix"})
_PUNCTUATION: Final = frozenset("{}();,=")
_BETWEEN: Final = frozenset({"==", "!=", "{", ",", "set", "!", "vmap", "."})
_DEVICES: Final = re.compile(r"\s*(?:devices = |hook .*device)")
WORDS: Final = "the number of words"
_SHORT: Final = 40  # characters of a word that is told


class NftRules:
    """Compares texts of rules, and whole lines of nft's listing."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def rule(self, before: str, after: str) -> Iterator[str]:
        """Before which words they differ."""
        if before == after:
            return
        old, new = _WORD.findall(before), _WORD.findall(after)
        if len(old) != len(new) or _WORD.sub("", before) != _WORD.sub("", after):
            yield WORDS
            return
        masks = {one[2]: one[1] for one in _MASKED.finditer(before)}
        listed = _DEVICES.match(before) is not None
        behind: list[str] = []
        for was, now in zip(old, new, strict=True):
            alike = was == now or self._alike(was, now, behind, masks)
            if not alike and not (listed and self._pairs.name(was, now)):
                yield (behind[-1] if behind else was)[:_SHORT]
            if was not in _PUNCTUATION:
                behind.append(was)

    def _alike(self, before: str, after: str, behind: Sequence[str], masks: dict[str, str]) -> bool:
        last = behind[-1] if behind else ""
        if before.startswith('"'):
            return self._quoted(before, after, last)
        if before.startswith("@") and not raw_payload.NAMED.fullmatch(before):
            return after.startswith("@") and self._pairs.name(before[1:], after[1:])
        if before in masks and self._masked(before, after, masks[before]):
            return True
        if self._raw(before, after, behind) or self._pairs.addresses(before, after):
            return True
        if last in _NAMED or (last in _OBJECTS and behind[:-1] in ([], ["ct"])):
            return self._pairs.name(before, after)
        if behind[-2:-1] == ["table"] and last in _FAMILIES:
            return self._pairs.name(before, after)
        if NUMBER.fullmatch(before):
            return False
        of = next((one for one in reversed(behind) if one not in _BETWEEN), "")
        return of in _HOSTS_WORDS and self._pairs.name(before, after)

    def _quoted(self, before: str, after: str, last: str) -> bool:
        old, new = _QUOTED.fullmatch(before), _QUOTED.fullmatch(after)
        if old is None or new is None or old[2] != new[2]:
            return False
        return (self._pairs.prose if last in _PROSE else self._pairs.name)(old[1], new[1])

    def _masked(self, before: str, after: str, mask: str) -> bool:
        """An address that is compared with the beginning of others."""
        try:
            length = length_of(mask, 128 if ":" in before else 32)
            return self._pairs.words.addresses(f"{before}/{length}") == f"{after}/{length}"
        except (UntrueError, ValueError):
            return False

    def _raw(self, before: str, after: str, behind: Sequence[str]) -> bool:
        """Bytes that are compared with those of a packet by their place."""
        of = next(
            (one for one in reversed(behind) if one not in _BETWEEN and not _is_number(one)), ""
        )
        given = raw_payload.NAMED.fullmatch(of)
        if given is None or not (_is_number(before) and _is_number(after)):
            return False
        place = given[1], int(given[2]), int(given[3])
        return self.raw(*place, int(before, 0), int(after, 0))

    def raw(self, base: str, offset: int, length: int, before: int, after: int) -> bool:
        """Whether a number is that in the place of another one."""
        try:
            return raw_payload.mapped(self._pairs.maps, base, offset, length, before) == after
        except (UntrueError, OverflowError):
            return False


def _is_number(word: str) -> bool:
    return NUMBER.fullmatch(word) is not None
