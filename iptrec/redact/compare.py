"""Whether two answers are equal up to what stands for what.

What a value is, is told by its key: a name, a rule, a comment; the rest are sentences of ours, in which
addresses and names may differ, and numbers and words of rules may not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from iptrec.redact.compare_lists import Lists
from iptrec.redact.compare_nft import NftRules
from iptrec.redact.compare_rulesets import Rulesets
from iptrec.redact.compare_save import SaveRules
from iptrec.redact.names import public
from iptrec.redact.pairs import NUMBER, Pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.redact.maps import Maps

_TOKENS: Final = re.compile(r"[^\s\"',;()\[\]{}=<>]+|[\s\"',;()\[\]{}=<>]+")
_IT_IS: Final = re.compile(r"^(.*) \(it is (.*)\)$", re.DOTALL)
# What compares a checksum or bytes of a payload, as th does where a protocol has no ports
_BYTES: Final = re.compile(r"checksum|csum|@(?:ll|nh|th|ih),|\bth [sd]port\b|--u32|--bytecode")
_ESCAPED: Final = re.compile(
    r"\\(?:[xuU])((?<=x)[0-9a-f]{2}|(?<=u)[0-9a-f]{4}|(?<=U)00(?:0[0-9a-f]|10)[0-9a-f]{4})"
)
_JUDGEMENTS: Final = frozenset({"fits", "because"})
_REASON: Final = frozenset({"because"})
_PLAIN: Final = frozenset({int, bool, float, type(None)})
_SUMS: Final = frozenset({"csum", "checksum"})
_NAMES: Final = frozenset(
    {
        "table",
        "chain",
        "in",
        "out",
        "physin",
        "physout",
        "netns",
        "target",
        "command",
        "comm",
        "container",
        "pod",
    }
)
_WHOLE_NAMES: Final = frozenset({"chain", "in", "out", "physin", "physout"})
_RULES: Final = frozenset({"spec", "target_args"})
_Path = tuple[str, ...]


class Comparison:
    """Compares values of JSON; ``maps``: those by which the second recording was made."""

    def __init__(self, maps: Maps) -> None:
        self.pairs = Pairs(maps)
        self.rulesets = Rulesets(self.pairs)
        self.lists = Lists(self.pairs)
        self._saved = SaveRules(self.pairs)
        self._nft = NftRules(self.pairs)
        self._kept = frozenset(public().values | public().nft)
        self._known: dict[tuple[str, str, str], bool] = {}
        self._hosts: dict[str, str] = {}

    def differences(self, before: Any, after: Any, path: _Path = ()) -> Iterator[_Path]:  # noqa: ANN401
        """Where they differ, in the order of the first one; ``()`` is all of it."""
        if isinstance(before, dict) and isinstance(after, dict):
            yield from self._of_objects(before, after, path)
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            for at, both in enumerate(zip(before, after, strict=True)):
                yield from self.differences(*both, (*path, str(at)))
        elif not self._alike(before, after, path):
            yield path

    def _of_objects(
        self, before: dict[str, Any], after: dict[str, Any], path: _Path
    ) -> Iterator[_Path]:
        unknown = self._unknown(before, after)
        for key in dict.fromkeys([*before, *after]):
            if key in _SUMS or key in unknown:
                continue
            if key not in before or key not in after:
                yield (*path, key)
                continue
            old, new = before[key], after[key]
            if _is_same(old, new) or (
                isinstance(old, str) and isinstance(new, str) and self._known.get((key, old, new))
            ):
                continue
            renamed = key == "spec" and before.get("kind") == "renamed"
            yield from self.differences(old, new, (*path, "chain" if renamed else key))

    def _unknown(self, before: dict[str, Any], after: dict[str, Any]) -> frozenset[str]:
        """What a rule need not say of a packet any more, if something was taken out of it.

        It may be unknown whether it fits, though it is not said to be otherwise; and where it did not for what
        is gone, another of its conditions may tell so.
        """
        old, new = before.get("spec"), after.get("spec")
        if not (isinstance(old, str) and isinstance(new, str)):
            return frozenset()
        if after.get("fits", "") is None:
            keys = _JUDGEMENTS
        elif self._saved.was_taken_out(str(before.get("because"))):
            keys = _REASON
        else:
            return frozenset()
        gone = self._saved.is_taken_out(old, new) and self.rules(old, new)
        return keys if gone else frozenset()

    def _alike(self, before: Any, after: Any, path: _Path) -> bool:  # noqa: ANN401
        if not (isinstance(before, str) and isinstance(after, str)):
            return bool(before == after)
        key = next((one for one in reversed(path) if not one.isdecimal()), "")
        at = key, before, after
        if at not in self._known:
            self._known[at] = self._of(*at)
        return self._known[at]

    def _of(self, key: str, before: str, after: str) -> bool:
        if key == "host":  # one for one, as those of several recordings are told apart
            whose = self._hosts.setdefault(after, before)
            return whose == before and list(self._hosts.values()).count(before) == 1
        if key in _RULES:
            return self.rules(before, after)
        if key in _NAMES and self.pairs.name(before, after):
            return True
        if key in _WHOLE_NAMES and before == after:
            return False
        if key == "comment":
            return self.pairs.prose(before, after)
        return self.texts(before, after)

    def rules(self, before: str, after: str) -> bool:
        """Whether the text of a rule, or the end of one, is another one's, of either kind."""
        saved = before.startswith(("-", "!")) or not before
        return not any((self._saved if saved else self._nft).rule(before, after))

    def texts(self, before: str, after: str) -> bool:
        """Whether a sentence is another one with what stands for its words."""
        if before == after and self.pairs.stays(before):
            return True
        told = _IT_IS.match(before), _IT_IS.match(after)
        if told[0] and told[1] and _BYTES.search(told[0][1]):
            return self.texts(told[0][1], told[1][1]) and self._bytes(told[0][2], told[1][2])
        if "`" in before:
            return self._with_rules(before, after)
        return self._sentence(before, after) or self._reason(before, after)

    def _bytes(self, before: str, after: str) -> bool:
        """What was compared, in parts; numbers depend on bytes that were replaced."""
        old, new = before.split(" . "), after.split(" . ")
        return len(old) == len(new) and all(
            (NUMBER.fullmatch(was) and NUMBER.fullmatch(now)) or self.texts(was, now)
            for was, now in zip(old, new, strict=True)
        )

    def _with_rules(self, before: str, after: str) -> bool:
        """A sentence with one rule, which may have such quotes itself, or with several."""
        for parts in (_around, _between):
            old, new = parts(before), parts(after)
            if len(old) == len(new) and all(
                (self._printed if at % 2 else self.texts)(*both)
                for at, both in enumerate(zip(old, new, strict=True))
            ):
                return True
        return False

    def _printed(self, before: str, after: str) -> bool:
        """A rule as it is printed: what is not printable is escaped."""
        return self.rules(before, after) or self.rules(_plain(before), _plain(after))

    def _sentence(self, before: str, after: str) -> bool:
        if self.pairs.addresses(before, after):
            return True
        old, new = _TOKENS.findall(before), _TOKENS.findall(after)
        return len(old) == len(new) and all(
            self.pairs.word(*both, self._kept) for both in zip(old, new, strict=True)
        )

    def _reason(self, before: str, after: str) -> bool:
        """A condition of a rule, and what is said of it."""
        old, new = before.partition(" ("), after.partition(" (")
        return self.rules(old[0], new[0]) and self._sentence(old[2], new[2])


def _is_same(before: Any, after: Any) -> bool:  # noqa: ANN401
    """Whether both are the same number or word of JSON."""
    return type(before) in _PLAIN and before == after


def _around(text: str) -> list[str]:
    head, _, rest = text.partition("`")
    rule, _, tail = rest.rpartition("`")
    return [head, rule, tail]


def _between(text: str) -> list[str]:
    return text.split("`")


def _plain(text: str) -> str:
    """Without the escapes of `iptrec.views.escape`."""
    return _ESCAPED.sub(lambda one: chr(int(one[1], 16)), text)
