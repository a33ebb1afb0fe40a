"""Whether a line of nft's text is another one with what stands for its words.

Which words may differ is told by what stands before them; no keyword and no number may (see `compare_save`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.redact import nft_numbers, raw_payload
from iptrec.redact.maps import UntrueError
from iptrec.redact.nft_selectors import Selectors, is_head
from iptrec.redact.pairs import NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.redact.pairs import Pairs

_WORD: Final = re.compile(
    r'"[^"]*"\*?|@(?:ll|nh|th|ih),\d+,\d+|[{}();,]|=(?!=)|[^\s"{}();,]+', re.ASCII
)
_QUOTED: Final = re.compile(r'"(.*)"(\*?)', re.DOTALL)
_MASKED: Final = re.compile(r"& (\S*[.:]\S*) (?:==|!=) ([0-9a-fA-F]*[.:][0-9a-fA-F.:]*)(?=\s|$)")
# Before a name without quotes: of a chain, an interface, an object, and of what a host has names for
_NAMED: Final = frozenset({"jump", "goto", "device", "name", "meter", "to"})
_ALWAYS_NAMED: Final = frozenset({"jump", "goto", "device", "meter"})
_SYSTEMS: Final = frozenset({"osf", "name", "version", "ttl", "loose", "skip"})  # as `osf` has them
_TIMES: Final = frozenset(
    {"hour", "day", "time"}
)  # of which nft quotes what they are compared with
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
_BETWEEN_QUOTED: Final = frozenset('"-<>=!{,')  # first characters
_DEVICES: Final = re.compile(r"\s*(?:devices = |hook .*device)")
WORDS: Final = "the number of words"
_SHORT: Final = 40  # characters of a word that is told


class NftRules:
    """Compares texts of rules, and whole lines of nft's listing."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._selectors = Selectors()
        self._is_head = False

    def rule(self, before: str, after: str) -> Iterator[str]:
        """Before which words a rule differs."""
        self._selectors = Selectors()
        return self.line(before, after)

    def line(self, before: str, after: str) -> Iterator[str]:
        """The same of the next line of a listing; what a set has is told by the lines before its elements."""
        old, new = _WORD.findall(before), _WORD.findall(after)
        if len(old) != len(new) or _WORD.sub("", before) != _WORD.sub("", after):
            yield WORDS
            return
        masks = {one[2]: one[1] for one in _MASKED.finditer(before)}
        listed = _DEVICES.match(before) is not None
        behind: list[str] = []
        self._is_head = head = is_head(before)
        self._selectors.line(old[0] if old else "", head=head)
        for was, now in zip(old, new, strict=True):
            alike = self._alike(was, now, behind, masks)
            if not alike and not (listed and self._pairs.name(was, now)):
                yield (behind[-1] if behind else was)[:_SHORT]
            self._selectors.feed(was)
            if was not in _PUNCTUATION:
                behind.append(was)

    def _alike(self, before: str, after: str, behind: Sequence[str], masks: dict[str, str]) -> bool:
        last = behind[-1] if behind else ""
        if before.startswith('"'):
            return self._quoted(before, after, behind)
        if before.startswith("@") and not raw_payload.NAMED.fullmatch(before):
            return after.startswith("@") and self._pairs.name(before[1:], after[1:])
        if before in masks:
            return self._masked(before, after, masks[before])
        number = self._number(before)
        if number is not None:
            return number == after
        heads = self._is_head and last in _OBJECTS | _FAMILIES
        if before == after and not (heads or last in _ALWAYS_NAMED):
            return self._pairs.stays(before)
        if self._pairs.addresses(before, after):
            return True
        if last in _NAMED or (last in _OBJECTS and behind[:-1] in ([], ["ct"])):
            return self._pairs.name(before, after)
        if behind[-2:-1] == ["table"] and last in _FAMILIES:
            return self._pairs.name(before, after)
        if NUMBER.fullmatch(before):
            return False
        of = next((one for one in reversed(behind) if one not in _BETWEEN), "")
        return of in _HOSTS_WORDS and self._pairs.name(before, after)

    def _quoted(self, before: str, after: str, behind: Sequence[str]) -> bool:
        of = next((one for one in reversed(behind) if one[0] not in _BETWEEN_QUOTED), "")
        if _is_nfts(behind) or (before == after and of in _TIMES):
            return before == after
        old, new = _QUOTED.fullmatch(before), _QUOTED.fullmatch(after)
        if old is None or new is None or old[2] != new[2]:
            return False
        return (self._pairs.prose if behind and behind[-1] in _PROSE else self._pairs.name)(
            old[1], new[1]
        )

    def _masked(self, before: str, after: str, mask: str) -> bool:
        """An address that is compared with the beginning of others."""
        try:
            return self._pairs.words.addresses(f"{before}/{mask}") == f"{after}/{mask}"
        except UntrueError:
            return False

    def _number(self, before: str) -> str | None:
        """What has to stand in the place of a number, or of what is compared by order; None for other words."""
        left, op = self._selectors.left, self._selectors.op
        value = nft_numbers.parsed(before)
        if op in nft_numbers.ORDERED and nft_numbers.is_ordered(left, value):
            return before
        if left is None or isinstance(value, str):
            return None
        try:
            made = nft_numbers.mapped(self._pairs.maps, left, value)
        except (UntrueError, OverflowError):
            return before
        return nft_numbers.printed(made, before)


def _is_nfts(behind: Sequence[str]) -> bool:
    """Whether what is compared is a system as `osf` knows it, or a kind of links."""
    words = (one for one in reversed(behind) if one[0] not in _BETWEEN_QUOTED)
    first = next(words, "")
    if first in ("name", "version"):
        first = next((one for one in words if one not in _SYSTEMS or one == "osf"), "")
        return first == "osf"
    return first in ("iifkind", "oifkind")
