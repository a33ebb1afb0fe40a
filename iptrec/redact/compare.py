"""Whether two answers are equal up to what stands for what."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import UsageError
from iptrec.redact.maps import UntrueError
from iptrec.redact.nft_text import NftText
from iptrec.redact.save_text import SaveText
from iptrec.redact.words import Words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.redact.maps import Maps

_TOKENS: Final = re.compile(r"[^\s\"',;()\[\]{}=<>]+|[\s\"',;()\[\]{}=<>]+")
_IT_IS: Final = re.compile(r" \(it is (?:0x[0-9a-f]+|\d+)\)$")
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")
_SUMS: Final = frozenset({"csum", "checksum"})
_Path = tuple[str, ...]


class Comparison:
    """Compares values of JSON; ``maps``: those by which the second recording was made."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._words = Words(maps)
        self._saved = SaveText(maps)
        self._nft = NftText(maps)
        self._known: dict[tuple[str, str], bool] = {}

    def differences(self, before: Any, after: Any, path: _Path = ()) -> Iterator[_Path]:  # noqa: ANN401
        """Where they differ."""
        if before == after:
            return
        if isinstance(before, dict) and isinstance(after, dict):
            yield from self._of_objects(before, after, path)
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            for at, both in enumerate(zip(before, after, strict=True)):
                yield from self.differences(*both, (*path, str(at)))
        elif not self._alike(before, after):
            yield path

    def _of_objects(
        self, before: dict[str, Any], after: dict[str, Any], path: _Path
    ) -> Iterator[_Path]:
        for key in {*before, *after}:
            if key in _SUMS:
                continue
            if key not in before or key not in after:
                yield (*path, key)
            else:
                yield from self.differences(before[key], after[key], (*path, key))

    def _alike(self, before: Any, after: Any) -> bool:  # noqa: ANN401
        if isinstance(before, str) and isinstance(after, str):
            at = before, after
            if at not in self._known:
                self._known[at] = self.texts(before, after)
            return self._known[at]
        return bool(before == after)

    def texts(self, before: str, after: str) -> bool:
        """Whether a text is another one with what stands for its words."""
        if before == after or after in self._readings(before):
            return True
        # That it does not fit is compared by itself; what it was may be a checksum.
        bare = _IT_IS.sub("", before), _IT_IS.sub("", after)
        if bare[0] != before and bare[1] != after:
            return self.texts(*bare)
        quoted = before.split("`"), after.split("`")  # a rule in a sentence
        if 1 < len(quoted[0]) == len(quoted[1]):
            return all(map(self.texts, *quoted))
        old, new = _TOKENS.findall(before), _TOKENS.findall(after)
        return len(old) == len(new) and all(map(self._words_alike, old, new))

    def _readings(self, text: str) -> Iterator[str]:
        """What a text is mapped to as a name, a comment, a rule of either kind."""
        yield self._maps.name(text)
        yield self._words.prose(text)
        for read in (self._words.addresses, self._saved.rule, self._nft.rule):
            try:
                yield read(text)
            except (UntrueError, UsageError):  # it is not one
                continue

    def _words_alike(self, before: str, after: str) -> bool:
        if before == after or self._maps.name(before) == after or self._word(before) == after:
            return True
        if _MAC.fullmatch(before) and self._word(before.lower()) == after.lower():
            return True  # iptables has them in capital letters
        if before.startswith("0x") and after.startswith("0x") and self._number(before) == after:
            return True
        # filter/INPUT, fw/chain:3, to-a., 10.0.0.1:80
        for separator in ("/", ":", ".", "-", "@"):
            old, new = before.split(separator), after.split(separator)
            if 1 < len(old) == len(new) and all(map(self._words_alike, old, new)):
                return True
        return False

    def _number(self, word: str) -> str:
        """An address that nft has as a number."""
        try:
            number = int(word, 16)
        except ValueError:
            return word
        size = 4 if number < 1 << 32 else 16
        if number >= 1 << 128:
            return word
        return hex(int.from_bytes(self._maps.address(number.to_bytes(size, "big")), "big"))

    def _word(self, word: str) -> str:
        try:
            made = self._words.addresses(word)
        except UntrueError:
            return word
        return made if made != word else self._maps.prose(word)
