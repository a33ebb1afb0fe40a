"""Of a text of nft what each word is compared with, as its JSON has it."""

from __future__ import annotations

import re
from typing import Any, Final

from iptrec.redact import raw_payload

_OPERATORS: Final = frozenset(
    {"==", "!=", "<", ">", "<=", ">=", "set", "map", "vmap", "!", "and", "or", "xor"}
)
_COMBINED: Final = frozenset({"&", "|", "^", "and", "or", "xor"})
_HEAD: Final = re.compile(r"[^=]*\{(?: # handle \d+)?\n?")
_SELECTS: Final = re.compile(r"[a-z][a-z0-9_-]*|@(?:ll|nh|th|ih),\d+,\d+")
_ENDS: Final = frozenset({"saddr", "daddr"})


def is_head(line: str) -> bool:
    """Whether a line opens a table, a chain, a set or another object."""
    return _HEAD.fullmatch(line) is not None


class Selectors:
    """Goes through words in their order; braces, commas and semicolons are words of their own."""

    def __init__(self) -> None:
        self._typed: list[list[str]] = []  # of the set that is being listed
        self._parts: list[list[str]] = []
        self._depth = self._at = 0
        self._is_head = False
        self._joined = self._behind = self._within = self._masked = False
        self.op = ""  # the operator right before the next word

    def line(self, first: str, *, head: bool) -> None:
        """A line begins; ``head``: it opens a chain or a set."""
        self._is_head = head
        if head:
            self._typed, self._depth = [], 0
        if self._depth:
            return
        if self._parts[:1] and self._parts[0][:1] in (["typeof"], ["type"]):
            self._typed = [self._parts[0][1:], *self._parts[1:]]
        self._parts = self._typed if first == "elements" else []
        self._joined = self._behind = self._within = self._masked = False
        self.op = ""

    @property
    def left(self) -> Any:  # noqa: ANN401 - JSON
        """What the next word is compared with; None where nothing that is known."""
        if (
            self._within
            or self._behind
            or (not self._depth and (len(self._parts) != 1 or self._joined))
        ):
            return None
        if self._at >= len(self._parts) or (self._masked and self.op in _COMBINED):
            return None
        found = _expression(self._parts[self._at])
        return {"&": [found, None]} if found is not None and self._masked else found

    def feed(self, word: str) -> None:
        """The next word."""
        if self._is_head:
            return
        if word == "{":
            self._depth, self._at = self._depth + 1, 0
            self._behind = self._within = False
        elif word == "}":
            self._depth = max(self._depth - 1, 0)
            if not self._depth:
                self._parts, self._at = [], 0
                self._behind = self._within = False
        elif self._depth:
            self._element(word)
        elif word == ".":
            self._joined = True
        elif word in _COMBINED or word in _OPERATORS:
            self._masked = self._masked or word in _COMBINED
        elif word not in ("elements", "="):
            self._word(word)
        self.op = word if word in _OPERATORS or word in _COMBINED else ""

    def _element(self, word: str) -> None:
        if word == ",":
            self._at, self._behind = 0, False
        elif word == ".":
            self._at += 1
        elif word == ":":
            self._behind = True
        self._within = word not in (
            ",",
            ".",
        )  # what follows is of that element: its counter, its timeout

    def _word(self, word: str) -> None:
        """A word of a selector, or a value: what follows is compared with something else."""
        if self.op in _COMBINED:
            return
        is_value = self.op in _OPERATORS or not _SELECTS.fullmatch(word)
        if is_value or not self._parts:
            self._parts = [[word]]
        elif self._joined:
            self._parts = [*self._parts, [word]]
        else:
            self._parts = [*self._parts[:-1], [*self._parts[-1], word]]
        self._joined = self._masked = False


def _expression(words: list[str]) -> Any:  # noqa: ANN401
    """An expression of its last words."""
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if given := raw_payload.NAMED.fullmatch(last):
        return {"payload": {"base": given[1], "offset": int(given[2]), "len": int(given[3])}}
    if last in _ENDS:
        return {"payload": {"protocol": before, "field": last}}
    if before in _ENDS and last in ("ip", "ether"):
        return {"payload": {"protocol": "arp", "field": f"{before} {last}"}}
    return "integer" if last == "integer" else None
