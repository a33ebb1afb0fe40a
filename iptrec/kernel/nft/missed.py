"""Rules of nf_tables that came and went between two listings: what they were is told by the kernel alone.

It tells each rule with all that it is made of, in the bytes in which a rule is given to it; `retold` makes text
of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.kernel import netlink
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft import transactions
from iptrec.kernel.nft.rule import Rule
from iptrec.kernel.nft.transactions import (
    DELETE_RULE,
    FAMILIES,
    GET_OBJECT,
    GET_SET,
    NEW_ELEMENTS,
    NEW_GENERATION,
    NEW_OBJECT,
    NEW_RULE,
    NEW_SET,
    SUBSYSTEM,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SET_NAME, ELEMENTS_SET = 2, 2  # NFTA_, the first one of an object as well
# What the kernel takes of what it gives: not a number, a handle, or what it counts.
_TAKEN: Final = {
    NEW_SET: (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18),
    NEW_OBJECT: (1, 2, 3, 4, 8),
}
ANONYMOUS: Final = re.compile(rb"__(set|map|objmap)\d+\0")
_OF_RULE: Final = (nft_rule.EXPRESSIONS, nft_rule.USERDATA)
_MOST_WAITING: Final = 20_000  # messages between two listings
MOST_TOLD: Final = 5_000  # rules, at once
MOST_EVER: Final = 50_000  # rules, in all: 5 MB of memory, and up to 100 MB of the recording
_DIGEST: Final = 16  # bytes

_Table = tuple[int, bytes]  # NFPROTO_, and its name
Attributes = list[tuple[int, bytes]]


class Gone(NamedTuple):
    """A rule that no listing had. All but ``messages`` are attributes as the kernel takes them.

    ``named``: NFT_MSG_NEWSET or NEWOBJ of what it refers to; ``sets``: those without a name, each with its
    elements. ``messages``: what told of the rule and of these sets.
    """

    family: int
    table: str
    named: list[tuple[int, Attributes]]
    sets: list[tuple[Attributes, list[Attributes]]]
    rule: Attributes
    messages: bytes


@dataclass(slots=True)
class _Set:
    """A set without a name."""

    attributes: Attributes
    message: bytes
    elements: list[Attributes] = field(default_factory=list)


class Missed:
    """Finds these rules in what the kernel tells; to be told when the ruleset was listed.

    ``again``: a rule is told again when an equal one was missed later on, as what was told may be gone by then.
    ``full``: there are more of them than are told.
    """

    def __init__(self, *, again: bool = False) -> None:
        self.again = again
        self._forget()

    def _forget(self) -> None:
        self.full = False
        self._known: set[bytes] = set()
        self._waiting: list[netlink.Message] = []
        self._commits = 0
        self._fresh: dict[tuple[_Table, bytes], Gone] = {}  # by their handles: those that are there
        self._gone: dict[bytes, Gone] = {}
        self._named: dict[tuple[_Table, int, bytes], Attributes] = {}
        self._sets: dict[tuple[_Table, bytes], _Set] = {}

    def begin(self) -> None:
        """All that there is by now is listed, or told to nobody. Raises `HostError`."""
        self._forget()
        for family in FAMILIES.values():
            for get, kind in ((GET_SET, NEW_SET), (GET_OBJECT, NEW_OBJECT)):
                for found in transactions.dumped(get, family, []) or ():
                    self._name(kind, family, found)

    def tell_again(self) -> None:
        """What was told is in another file: from now on it is told once more where it is missed again."""
        self._known.clear()

    def take(self, message: netlink.Message) -> None:
        """A message that the kernel told of changes."""
        kind = message.kind - SUBSYSTEM
        if kind == NEW_GENERATION:
            self._commits += 1
        elif kind in (NEW_RULE, DELETE_RULE, NEW_SET, NEW_OBJECT) or (
            kind == NEW_ELEMENTS and ANONYMOUS.search(message.body)
        ):
            self._waiting.append(message)
            if len(self._waiting) > _MOST_WAITING:
                self._waiting.clear()

    def there(self, messages: Iterable[netlink.Message]) -> list[Gone]:
        """The rules that are there, which nobody could list; behind `begin`."""
        for one in messages:
            self._message(one)
        return self.untold()

    def listed(self) -> None:
        """The ruleset was listed as all that was taken has made it."""
        if self._commits <= 1 and not self._fresh:  # nothing can have come and gone
            self._waiting = [
                one for one in self._waiting if one.kind - SUBSYSTEM in (NEW_SET, NEW_OBJECT)
            ]
        self._read()
        self._fresh.clear()
        self._commits = 0

    def gone(self) -> list[Gone]:
        """Those that no listing had, each kind of them once."""
        self._read()
        found = list(self._gone.values())
        if self.again and found:
            self._known.clear()
        self._known |= self._gone.keys()
        self._gone.clear()
        return found

    def untold(self) -> list[Gone]:
        """The same, and those that are there since: nobody will list them."""
        self._read()
        for one in self._fresh.values():
            self._went(one)
        self._fresh.clear()
        return self.gone()

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._message(one)

    def _message(self, message: netlink.Message) -> None:
        kind, family = message.kind - SUBSYSTEM, message.body[0]
        found = netlink.netfilter_attributes(message)
        if family not in FAMILIES.values() or nft_rule.TABLE not in found:
            return
        table = family, found[nft_rule.TABLE]
        if kind in (NEW_SET, NEW_OBJECT):
            self._name(kind, family, found, message)
        elif kind == NEW_ELEMENTS:
            if (some := self._sets.get((table, found.get(ELEMENTS_SET, b"")))) is not None:
                some.elements.append([*found.items()])
                some.message += netlink.whole(message)
        elif kind == NEW_RULE:
            self._came(table, found, message)
        elif (rule := self._fresh.pop((table, found.get(nft_rule.HANDLE, b"")), None)) is not None:
            self._went(rule)

    def _name(
        self,
        kind: int,
        family: int,
        found: dict[int, bytes],
        message: netlink.Message | None = None,
    ) -> None:
        """Keep what a set or an object is, for rules that refer to it."""
        table, name = (family, found[nft_rule.TABLE]), found.get(SET_NAME, b"")
        attributes = [one for one in found.items() if one[0] in _TAKEN[kind] and one[1]]
        if not ANONYMOUS.fullmatch(name):
            self._named[table, kind, name] = attributes
        elif message is not None:
            self._sets[table, name] = _Set(attributes, netlink.whole(message))

    def _came(self, table: _Table, found: dict[int, bytes], message: netlink.Message) -> None:
        """Keep a rule, unless a part of it was not told."""
        expressions = found.get(nft_rule.EXPRESSIONS, b"")
        names = [one.group() for one in ANONYMOUS.finditer(expressions)]
        sets = [self._sets.pop((table, one)) for one in names if (table, one) in self._sets]
        if len(sets) < len(names) or nft_rule.ANONYMOUS_CHAIN.encode() in expressions:
            return
        self._fresh[table, found[nft_rule.HANDLE]] = Gone(
            family=table[0],
            table=table[1].rstrip(b"\0").decode("utf-8", "surrogateescape"),
            named=list(self._referred(table, expressions)),
            sets=[(one.attributes, one.elements) for one in sets],
            rule=[one for one in found.items() if one[0] in _OF_RULE],
            messages=b"".join(one.message for one in sets) + netlink.whole(message),
        )

    def _referred(self, table: _Table, expressions: bytes) -> Iterator[tuple[int, Attributes]]:
        """The sets and objects that a rule names."""
        for _, data in nft_rule.parts(expressions):
            for _, value in netlink.attributes(data):
                for kind in (NEW_SET, NEW_OBJECT):
                    if (named := self._named.get((table, kind, value))) is not None:
                        yield kind, named

    def _went(self, gone: Gone) -> None:
        """A rule is gone that no listing had."""
        identity = _identity(gone)
        if identity in self._known or identity in self._gone:
            return
        if len(self._gone) < MOST_TOLD and len(self._known) + len(self._gone) < MOST_EVER:
            self._gone[identity] = gone
        else:
            self.full = True


def _identity(gone: Gone) -> bytes:
    """Equal for rules of equal text in tables of one name."""
    found = dict(gone.rule)
    rule = Rule("", b"", found.get(nft_rule.EXPRESSIONS, b""), found.get(nft_rule.USERDATA, b""))
    of_sets = [[value for kind, value in one if kind != SET_NAME] for one in _of_sets(gone) if one]
    said = repr((gone.family, gone.table, rule.identity, of_sets)).encode(
        "utf-8", "surrogateescape"
    )
    return blake2b(ANONYMOUS.sub(b"", said), digest_size=_DIGEST).digest()


def _of_sets(gone: Gone) -> Iterator[Attributes]:
    for attributes, elements in gone.sets:
        yield attributes
        yield from elements
