"""What nft prints of a table beside its rules: sets, maps, objects with a state, flowtables, hooks of chains.

By its text (``nft list ruleset``) or its JSON (``nft -j``), whose words differ: compare like with like.
What counts or runs out is left out. nft 1.0.6 prints no comments of tables and chains in its JSON, no devices
of chains, of sets neither auto-merge nor dynamic; of one flag of a table it prints what it has freed before
(src/json.c, table_flags_json): that there is one is then all that is known, and its JSON may end there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.rulesets import nft_listing, nft_text
from iptrec.decode.rulesets.nft_matches import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.decode.rulesets.types import TableName

_TABLE: Final = re.compile(r"table (\S+) (\S+) \{(?: # handle \d+)?")
_BLOCK: Final = re.compile(r"\t((?:ct )?\S+) (\S+) \{(?: # handle \d+)?")
_HOOK: Final = re.compile(r"\t\t(type \S+ hook .*?;)(?: policy \w+;)?")
_ELEMENT: Final = re.compile(r'(?:"[^"]*"|[^,"])+')
_STATE: Final = re.compile(
    r'"[^"]*"| expires \S+|(?<=counter) packets \d+ bytes \d+|(?<=bytes) used \d+ \w+|(?<=\blast) used \S+'
)
_JSON_COUNTER: Final = re.compile(rb'"counter": ?\{"packets": ?\d+, ?"bytes": ?\d+\}')
_JSON_LAST: Final = re.compile(rb'"last": ?\{"used": ?\d+\}')
_JSON_USED: Final = re.compile(rb', ?"used": ?\d+, ?"used_unit": ?"\w+"')
_COUNTER: Final = re.compile(rb"counter packets \d+ bytes \d+")
_COUNTS: Final = re.compile(r"packets \d+ bytes \d+")
_HANDLED: Final = re.compile(r"^\t.* # handle \d+$", re.MULTILINE)
_FLAGS: Final = ("dormant", "owner", "persist")  # of tables
UNNAMED_FLAG: Final = "flags of which nft -j did not print the name"
# Of the JSON: names are the object's own, the rest changes by itself.
_NO_DEFINITION: Final = frozenset({
    "family", "table", "name", "handle", "elem", "packets", "used", "expires",
})  # fmt: skip
# Of a kind: what a counter counts; a chain's policy is compared with its rules.
_NO_DEFINITION_OF: Final = {"counter": frozenset({"bytes"}), "chain": frozenset({"policy"})}


@dataclass(frozen=True, slots=True)
class Object:
    """``kind`` as nft calls it: "set", "map", "flowtable", "ct helper", "chain", "table" (without a name), ...

    ``definition``: what nft prints of it beside rules, on one line; of a chain that is only jumped to that may
    be nothing. ``elements``: of a set or map, in the order printed.
    """

    kind: str
    name: str
    definition: str
    elements: tuple[str, ...] = ()


def of_text(text: bytes) -> dict[TableName, list[Object]]:
    """The objects of each table, by what ``nft list ruleset`` printed, with or without handles."""
    found: dict[TableName, list[Object]] = {}
    objects: list[Object] = []
    attributes: list[str] = []
    block: re.Match[str] | None = None
    lines: list[str] = []
    for line in nft_text.lines(text.decode("utf-8", "backslashreplace")):
        if begun := _TABLE.fullmatch(line):
            objects, attributes, block = found.setdefault((begun[1], begun[2]), []), [], None
        elif line == "}":
            objects += [Object("table", "", "; ".join(attributes))] if attributes else []
            attributes = []
        elif line == "\t}" and block:
            objects += _block(block[1], block[2], lines)
            block = None
        elif block:
            lines.append(line)
        elif begun := _BLOCK.fullmatch(line):
            block, lines = begun, []
        elif line.strip():
            attributes.append(line.strip())
    return found


def _block(kind: str, name: str, lines: list[str]) -> Iterator[Object]:
    """The object that a block is."""
    if kind == "chain":
        yield Object(kind, name, "; ".join(_before_rules(lines)))
        return
    body = "\n".join(lines)
    head, found, rest = _cut(body)
    definition = "; ".join(line.strip() for line in (head + rest).split("\n") if line.strip())
    if kind == "counter":
        definition = _COUNTS.sub("", definition).strip("; ")
    yield Object(kind, name, _lasting_words(definition), tuple(_elements(found)))


def _before_rules(lines: list[str]) -> Iterator[str]:
    """The comment of a chain, which may have several lines, and where it is attached."""
    after = 0
    if lines and lines[0].startswith('\t\tcomment "'):
        quotes = accumulate(line.count('"') for line in lines)
        after = next((at for at, count in enumerate(quotes, 1) if count % 2 == 0), 0)
        yield from ["\n".join(lines[:after]).strip()] if after else []
    hook = _HOOK.fullmatch(lines[after]) if after < len(lines) else None
    yield from [hook[1]] if hook else []


def _lasting_words(text: str) -> str:
    """Without what counts or runs out; what is quoted stays."""
    return _STATE.sub(lambda found: found[0] if found[0].startswith('"') else "", text)


def _cut(body: str) -> tuple[str, str, str]:
    """What is before a set's elements, they themselves, and what is behind."""
    begun = re.search(r"^\t\telements = \{", body, re.MULTILINE)
    if begun is None:
        return body, "", ""
    quoted = False
    for at in range(begun.end(), len(body)):
        quoted ^= body[at] == '"'
        if body[at] == "}" and not quoted:
            return body[: begun.start()], body[begun.end() : at], body[at + 1 :]
    return body[: begun.start()], body[begun.end() :], ""


def _elements(inner: str) -> Iterator[str]:
    for one in _ELEMENT.findall(inner):
        if element := " ".join(_lasting_words(one).split()):
            yield element


def has_handles(text: bytes) -> bool:
    """Whether a listing was printed with handles (nft -a)."""
    return _HANDLED.search(text.decode("utf-8", "surrogateescape")) is not None


def numbered(text: bytes) -> bytes:
    """A listing with handles where it was printed without (nft -a), and without what its rules have counted."""
    printed = _lasting_words(text.decode("utf-8", "surrogateescape"))
    if not _HANDLED.search(printed):
        printed = "\n".join(_numbered(printed.split("\n")))
    return printed.encode("utf-8", "surrogateescape")


def _numbered(lines: list[str]) -> Iterator[str]:
    """The last line of each rule with a handle: their number in the listing."""
    in_chain = anonymous = quoted = of_chain = False
    for number, line in enumerate(lines, 1):
        begins = not (quoted or of_chain)  # it is not what follows a line feed in a comment
        if begins and not line.startswith("\t\t"):
            in_chain, anonymous, quoted = line.startswith("\tchain "), False, False
        of_chain = of_chain or (begins and line.startswith('\t\tcomment "'))
        quoted ^= line.count('"') % 2 == 1
        if begins and re.match(r"\t\t[^\t].*\{$", line):
            anonymous = True
        elif begins and anonymous and line.startswith("\t\t}"):
            anonymous = False
        is_rule = (
            in_chain
            and (line.startswith("\t\t") or not begins)
            and not (anonymous or quoted or of_chain or _HOOK.match(line))
        )
        of_chain = of_chain and quoted
        yield f"{line} # handle {number}" if is_rule else line


def stateless(listing: bytes) -> bytes:
    """What ``nft -j`` printed, without what rules have counted (nft -s)."""
    counted = _JSON_USED.sub(b"", _JSON_COUNTER.sub(b'"counter": null', listing))
    counted = _JSON_LAST.sub(b'"last": null', counted)
    return _COUNTER.sub(b"counter", counted)


def of_json(listing: bytes) -> dict[TableName, list[Object]]:
    """The objects of each table, by what ``nft -j list ruleset`` printed.

    Raises ValueError for what is not that.
    """
    found: dict[TableName, list[Object]] = {}
    for kind, value in _named(nft_listing.objects(listing)):
        match value:
            case {"family": str(family), "table": str(table), "name": str(name)}:
                here = found.setdefault((shown(family), shown(table)), [])
                here.append(_object(kind, name, value))
            case {"family": str(family), "name": str(name)} if kind == "table":
                here = found.setdefault((shown(family), shown(name)), [])
                words = "; ".join(_of_table(value))
                here += [Object(kind, "", words)] if words else []
    return found


def _of_table(value: dict[str, Any]) -> Iterator[str]:
    flags = value.get("flags")
    told = [one for one in (flags if isinstance(flags, list) else [flags]) if one in _FLAGS]
    if "flags" in value:
        yield f"flags {','.join(told)}" if told else UNNAMED_FLAG
    if "comment" in value:
        yield f"comment {_compact(value['comment'])}"


def _named(objects: list[Any]) -> Iterator[tuple[str, Any]]:
    for one in objects:
        if isinstance(one, dict):
            yield from one.items()


def _object(kind: str, name: str, value: dict[str, Any]) -> Object:
    left_out = _NO_DEFINITION | _NO_DEFINITION_OF.get(kind, frozenset())
    words = (f"{key} {_compact(one)}" for key, one in value.items() if key not in left_out)
    elements = value.get("elem")
    told = map(_compact, map(_lasting, elements if isinstance(elements, list) else ()))
    return Object(kind, shown(name), "; ".join(words), tuple(told))


def _lasting(element: Any) -> Any:  # noqa: ANN401 - JSON
    """An element without what counts or runs out."""
    match element:
        case {"elem": dict(inner)}:
            kept = {key: _stateless(key, one) for key, one in inner.items() if key != "expires"}
            return kept["val"] if list(kept) == ["val"] else {"elem": kept}
        case [key, data]:
            return [_lasting(key), data]
    return element


def _stateless(name: str, value: Any) -> Any:  # noqa: ANN401 - JSON
    """A part of an element without what it has counted."""
    if name in ("counter", "last"):
        return None
    if name == "quota" and isinstance(value, dict):
        return {key: one for key, one in value.items() if key not in ("used", "used_unit")}
    return value


def _compact(value: Any) -> str:  # noqa: ANN401 - JSON
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
