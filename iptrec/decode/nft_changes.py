"""What nf_tables tells of changes of its ruleset: each commit with its tables, chains and rules.

The kernel tells all that a transaction did, then the generation that it made (net/netfilter/nf_tables_api.c,
nf_tables_commit; include/uapi/linux/netfilter/nf_tables.h). Generations are counted without a gap, so a commit
that was not received is missed. Elements of named sets, counters and the like are no rules: they are left out.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.attributes import attributes, first, headers, text
from iptrec.decode.nftrace import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from iptrec.decode.rulesets.types import TableName

NEW_TABLE, DELETE_TABLE = 0x0A00, 0x0A02  # NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_
NEW_CHAIN, DELETE_CHAIN = 0x0A03, 0x0A05
NEW_RULE, DELETE_RULE = 0x0A06, 0x0A08
NEW_SET, DELETE_SET = 0x0A09, 0x0A0B
NEW_ELEMENTS, DELETE_ELEMENTS = 0x0A0C, 0x0A0E
NEW_GENERATION: Final = 0x0A0F
_TOLD: Final = {NEW_TABLE, DELETE_TABLE, NEW_CHAIN, DELETE_CHAIN, NEW_RULE, DELETE_RULE}
_SETS: Final = {NEW_SET, NEW_ELEMENTS}
_OF_SETS: Final = _SETS | {DELETE_SET, DELETE_ELEMENTS}
_OF_COMMITS: Final = _TOLD | _OF_SETS
REPLACE, CREATE, APPEND = 0x100, 0x400, 0x800  # NLM_F_
FAMILY_HEADER: Final = 4  # struct nfgenmsg

_TABLE: Final = 1  # NFTA_*_TABLE, and the name of a table
_TABLE_FLAGS, _TABLE_HANDLE = 2, 4
_CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 2, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_COMPAT, _RULE_POSITION, _RULE_USERDATA = (
    2, 3, 4, 5, 6, 7,
)  # fmt: skip
_SET_NAME, _SET_ID, _SET_HANDLE, _ELEMENTS_SET = 2, 10, 16, 2
_EXPRESSION_NAME, _EXPRESSION_DATA, _CONSUMED = 1, 2, 4
_COUNTING: Final = {b"counter\0", b"last\0"}
_ANONYMOUS: Final = re.compile(rb"__(?:set|map|objmap)\d+")
ANONYMOUS_CHAIN: Final = "__chain"  # what the kernel calls one begins so
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")


class Hook(NamedTuple):
    """Where a base chain is attached, in the kernel's numbers."""

    number: int
    priority: int
    type: str
    accepts: bool


@dataclass(frozen=True, slots=True)
class Edit:
    """One table, chain or rule that came or went; ``kind``: NFT_MSG_ of it.

    ``handle``: its own. ``chain``: its name, or that of the rule's. ``position``: the handle of the rule
    before, None for the first or the last of its chain. ``content``: equal for rules of equal text; None
    where the message does not have all of it.
    """

    kind: int
    table: TableName
    handle: int
    chain: str = ""
    flags: int = 0
    hook: Hook | None = None
    position: int | None = None
    content: object = None


@dataclass(slots=True)
class Commit:
    """A transaction; ``received_ns``: when its first and its last message were received.

    ``of_sets``: whether it did something to sets or their elements, which are no edits.
    """

    generation: int
    received_ns: tuple[int, int]
    edits: list[Edit] = field(default_factory=list)
    of_sets: bool = False


def commits(datagrams: Iterable[tuple[int, bytes]]) -> Iterator[Commit]:
    """The commits that datagrams tell of, in order; each with the time when it was received."""
    edits: list[Edit] = []
    sets: dict[tuple[TableName, bytes], list[object]] = {}
    begun: int | None = None
    of_sets = False
    for received, datagram in datagrams:
        for kind, flags, start, end in headers(datagram):
            if begun is None and kind in _OF_COMMITS:
                begun = received
            of_sets = of_sets or kind in _OF_SETS
            if kind not in _TOLD | _SETS or end - start < FAMILY_HEADER:
                if kind == NEW_GENERATION:
                    number, told = _generation(datagram[start:end]), (begun or received, received)
                    yield Commit(number, told, edits, of_sets)
                    edits, begun, of_sets = [], None, False
                continue
            body = memoryview(datagram)[start:end]
            if kind in _SETS:
                _remember(kind, bytes(body), sets)
            elif (edit := _edit(kind, flags, bytes(body), sets)) is not None:
                edits.append(edit)


def rules(messages: bytes) -> list[Edit]:
    """The rules that messages tell of, which lie back to back: in order."""
    sets: dict[tuple[TableName, bytes], list[object]] = {}
    found = []
    for kind, flags, start, end in headers(messages):
        body = messages[start:end]
        if kind in _SETS and len(body) >= FAMILY_HEADER:
            _remember(kind, body, sets)
        elif kind == NEW_RULE and len(body) >= FAMILY_HEADER:
            edit = _edit(kind, flags, body, sets)
            found += [] if edit is None else [edit]
    return found


def table_of(body: bytes, found: Mapping[int, bytes]) -> TableName:
    """The table that a message is about; ``found``: the attributes in its body."""
    return FAMILIES.get(body[0], str(body[0])), text(found.get(_TABLE, b""))


def _generation(body: bytes) -> int:
    return _number(first(body[FAMILY_HEADER:]).get(1))


def _number(value: bytes | None) -> int:
    """A big-endian number of four or eight bytes; -1 where it is none."""
    match len(value or b""):
        case 4:
            return int(_U32.unpack(value or b"")[0])
        case 8:
            return int(_U64.unpack(value or b"")[0])
        case _:
            return -1


def _edit(
    kind: int, flags: int, body: bytes, sets: dict[tuple[TableName, bytes], list[object]]
) -> Edit | None:
    """What a message tells; None of an anonymous chain, which nft does not list."""
    found = first(body[FAMILY_HEADER:])
    table = table_of(body, found)
    if kind in (NEW_TABLE, DELETE_TABLE):
        handle = _number(found.get(_TABLE_HANDLE))
        return Edit(kind, table, handle, flags=_number(found.get(_TABLE_FLAGS)))
    of_rule = kind in (NEW_RULE, DELETE_RULE)
    chain = text(found.get(_RULE_CHAIN if of_rule else _CHAIN_NAME, b""))
    if chain.startswith(ANONYMOUS_CHAIN):
        return None
    if not of_rule:
        return Edit(kind, table, _number(found.get(_CHAIN_HANDLE)), chain, hook=_hook(found))
    position = found.get(_RULE_POSITION)
    return Edit(
        kind, table, _number(found.get(_RULE_HANDLE)), chain, flags,
        position=None if position is None else _number(position),
        content=_content(table, found, sets),
    )  # fmt: skip


def _hook(chain: dict[int, bytes]) -> Hook | None:
    """Where a chain is attached; None for one that is only jumped to."""
    if _CHAIN_HOOK not in chain:
        return None
    hook = first(chain[_CHAIN_HOOK])
    priority = _number(hook.get(_HOOK_PRIORITY))
    return Hook(
        _number(hook.get(_HOOK_NUMBER)),
        priority - 2**32 if priority >= 2**31 else priority,
        text(chain.get(_CHAIN_TYPE, b"")),
        _number(chain.get(_CHAIN_POLICY)) != 0,
    )


def _remember(kind: int, body: bytes, sets: dict[tuple[TableName, bytes], list[object]]) -> None:
    """Keep what an anonymous set is, which is part of the text of the rule that has it."""
    found = first(body[FAMILY_HEADER:])
    table = table_of(body, found)
    name = found.get(_SET_NAME if kind == NEW_SET else _ELEMENTS_SET, b"").rstrip(b"\0")
    if not _ANONYMOUS.fullmatch(name):
        return
    told = tuple(
        (number, value)
        for number, value in found.items()
        if number not in (_TABLE, _SET_NAME, *((_SET_ID, _SET_HANDLE) if kind == NEW_SET else ()))
    )
    if kind == NEW_SET:
        sets[table, name] = []
    if (table, name) in sets:
        sets[table, name].append(told)


def _content(
    table: TableName, rule: dict[int, bytes], sets: dict[tuple[TableName, bytes], list[object]]
) -> object:
    """What the text of a rule is made of, without what it has counted; None where that is not all here."""
    expressions = rule.get(_RULE_EXPRESSIONS, b"")
    if ANONYMOUS_CHAIN.encode() in expressions:
        return None
    named = [sets.get((table, one)) for one in _ANONYMOUS.findall(expressions)]
    if None in named:
        return None
    return (
        table[0],
        rule.get(_RULE_COMPAT),
        rule.get(_RULE_USERDATA),
        _ANONYMOUS.sub(b"", b"".join(_uncounted(expressions))),
        tuple(tuple(one or ()) for one in named),
    )


def _uncounted(expressions: bytes) -> Iterator[bytes]:
    for _, expression in attributes(expressions):
        parts = first(expression)
        name = parts.get(_EXPRESSION_NAME, b"")
        data = parts.get(_EXPRESSION_DATA, b"")
        if name in _COUNTING:
            data = b""
        elif name == b"quota\0":
            data = b"".join(value for kind, value in attributes(data) if kind != _CONSUMED)
        yield struct.pack("<II", len(name), len(data)) + name + data
