"""What nft prints as text: each word by the one before it, or else by how it looks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_text import lines
from iptrec.errors import UsageError
from iptrec.redact import nft_numbers, raw_payload
from iptrec.redact.maps import UntrueError
from iptrec.redact.names import public
from iptrec.redact.nft_selectors import Selectors, is_head
from iptrec.redact.words import Words

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

_WORD: Final = re.compile(r'"[^"]*"\*?|[^\s"]+')
_MASKED: Final = re.compile(r"& (\S*[.:]\S*) (==|!=) ([0-9a-fA-F]*[.:][0-9a-fA-F.:]*)(?=\s|$)")
_FAMILIES: Final = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})
_HEADS: Final = frozenset(
    {"chain", "set", "map", "flowtable", "counter", "quota", "limit", "helper", "timeout", "expectation",
     "secmark", "synproxy", "meter", "element"}
)  # fmt: skip
# Before a name that is not quoted; those of interfaces always are.
_NAMED: Final = frozenset({"jump", "goto", "device", "name", "meter"})
# What nft quotes of times (src/meta.c), and what it counts times and rates by
_MOMENT: Final = re.compile(
    r"(?:Sun|Mon|Tues|Wednes|Thurs|Fri|Satur)day|(?:\d{4}-\d\d-\d\d )?\d\d:\d\d(?::\d\d)?"
)
_TIME: Final = r"(?:\d+(?:ms|[dhms]))+"
_SPAN: Final = re.compile(f"{_TIME}(?:-{_TIME})?")
_UNITS: Final = frozenset(["bytes", "kbytes", "mbytes", "second", "minute", "hour", "day", "week"])
_PROSE: Final = frozenset({"comment", "prefix"})
# What nft quotes and a host does not name: systems (`osf`, with the words that may follow), kinds of links
_SYSTEMS: Final = frozenset({"osf", "name", "version", "ttl", "loose", "skip"})
_KINDS: Final = frozenset({"iifkind", "oifkind"})
_INDEXED: Final = re.compile(r"(?:addr|sid)\[\d+\]")  # of routing headers
_BETWEEN: Final = frozenset({"==", "!=", "{", ","})
_PUNCTUATION: Final = "{}();,="


class NftText:
    """Changes a listing, or a rule."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._words = Words(maps)
        self._selectors = Selectors()
        self._compares = ""  # a word of nft's, if what it is compared with is nft's as well

    def __call__(self, text: str) -> str:
        """All lines. Raises `UsageError` with a rule that would not stay true."""
        return "\n".join(map(self._line, lines(text)))

    def _line(self, line: str) -> str:
        try:
            return self.rule(line)
        except UntrueError as error:
            raise UsageError(
                f"cannot redact {line.strip()!r}: {error} would not stay true; take that rule out of what you"
                " share"
            ) from None

    def rule(self, line: str) -> str:
        """One line."""
        known: dict[int, str] = {}
        for found in _MASKED.finditer(line):
            known[found.start(3)] = self._masked(found)
        head = is_head(line)
        self._selectors.line(line.split(None, 1)[0] if line.strip() else "", head=head)
        made, at, before = [], 0, ["", "", ""]
        self._compares = ""
        for found in _WORD.finditer(line):
            made.append(line[at : found.start()])
            at = found.end()
            word = found[0]
            if found.start() in known:
                made.append(known[found.start()])
                self._selectors.feed(word)
            else:
                made.append(self._word(word, before, head=head))
            before = [*before[1:], word]
            self._compare(word)
        return "".join(made) + line[at:]

    def _compare(self, word: str) -> None:
        """Whether quoted words behind this one are nft's own."""
        if word[0] != '"' and word not in _BETWEEN:
            is_own = word in _KINDS or word == "osf" or (self._compares and word in _SYSTEMS)
            self._compares = word if is_own else ""

    def _masked(self, found: re.Match[str]) -> str:
        return self._words.addresses(f"{found[3]}/{found[1]}").partition("/")[0]

    def _word(self, word: str, before: list[str], *, head: bool) -> str:
        core = "" if word in nft_numbers.ORDERED else word.strip(_PUNCTUATION)
        if not core:
            self._feed(word)
            return word
        start, end = word[: word.index(core[0])], word[word.index(core[0]) + len(core) :]
        self._feed(start)
        made = self._compared(core)
        made = self._core(core, before, head=head) if made is None else made
        self._feed(core)
        self._feed(end)
        return start + made + end

    def _feed(self, word: str) -> None:
        for one in word if not word.strip("{}(),;") else [word]:
            self._selectors.feed(one)

    def _compared(self, word: str) -> str | None:
        """A number, or what is compared by order, in its place; None for other words."""
        left, op = self._selectors.left, self._selectors.op
        value = nft_numbers.parsed(word)
        if op in nft_numbers.ORDERED and nft_numbers.is_ordered(left, value):
            nft_numbers.border(self._maps, left, op, value)
            return word
        if left is None or isinstance(value, str):
            return None
        return nft_numbers.printed(nft_numbers.mapped(self._maps, left, value), word)

    def _core(self, word: str, before: list[str], *, head: bool) -> str:
        last = before[-1]
        if word.startswith('"'):
            inner = word[1:].rstrip("*").removesuffix('"')
            if self._compares or (last not in _PROSE and _MOMENT.fullmatch(inner)):
                return word
            change = self._words.prose if last in _PROSE else self._maps.name
            return f'"{change(inner)}"{"*" * word.endswith("*")}'
        if raw_payload.NAMED.fullmatch(word) or before[-2:-1] == ["xt"]:  # an extension of iptables
            return word
        if word.startswith("@"):
            return "@" + self._maps.name(word[1:])
        of_table = before[-2:-1] == ["table"] and last in _FAMILIES
        if of_table or (head and last in _HEADS) or last in _NAMED:
            return self._maps.name(word)
        if word in public().nft or _INDEXED.fullmatch(word) or not word.strip("!<>=&|^-+.*#:/"):
            return word
        if all(one in public().nft for one in word.split(",")):
            return word
        if _SPAN.fullmatch(word) or _UNITS.issuperset(word.split("/")):
            return word
        return self._words.value(word)
