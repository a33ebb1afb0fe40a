"""What `nft -a list ruleset` printed: the words for each rule, and where the JSON cannot be read, all of it.

A rule is then one statement that is not understood, after those of its conditions that are plain to read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.decode.rulesets.nft_others import TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from iptrec.decode.rulesets.types import TableName

_PRIORITIES: Final = {
    "": 0, "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
_BRIDGE_PRIORITIES: Final = {"": 0, "dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}
_TRACE: Final = {"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 1}}
_TABLE_LINE: Final = re.compile(r"^table (\S+) (.+?) \{(?: # handle (\d{1,19}))?$")
_CHAIN_LINE: Final = re.compile(r"^\tchain (.+?) \{(?: # handle (\d{1,19}))?$")
_HOOK_LINE: Final = re.compile(
    r"^\t\ttype (?P<type>\S+) hook (?P<hook>\S+) (?:.* )?priority (?P<name>[a-z]+|(?=-?\d))"
    r"(?: ?(?P<offset>[+-]? ?\d{1,10}))?;(?: policy (?P<policy>\w+);)?"
)
_DEVICES: Final = re.compile(r" devices? (?:= \{ )?(.*?)(?: \})? priority ")
_RULE_LINE: Final = re.compile(r"^(.+) # handle (\d{1,19})$", re.DOTALL)

_COMMENT: Final = re.compile(r' comment "([^"]*)"$')
# The end of the text of a recorder's rule: before the counter, nft prints nothing for the comment.
_TRACING: Final = re.compile(r"(?:.*[ \t])? counter meta nftrace set 1$", re.DOTALL)
_ACCEPTING: Final = re.compile(r'accept comment "iptrec:[^"]*"$')  # and of one that only watches
# Comparisons with one value, of the packet itself
_CONDITION: Final = re.compile(
    r"(?<!\S)(?<!original )(?<!reply )(?<!\. )"
    r"(?P<key>(?:tcp|udp|sctp|th) [sd]port|ip6? [sd]addr|[io]if(?:name)?|meta (?:mark|l4proto)|ip protocol)"
    r' (?P<not>!= )?(?P<value>"[^"]*"|[0-9a-z][0-9a-zA-Z.:/-]*)(?! \.)(?!\S)'
)
_LONGEST_STATEMENT: Final = 512  # characters; a prefix of the log has 127 at most
_QUOTED: Final = re.compile(r'"[^"]*"')
_STATEMENT: Final = re.compile(
    r"(?<!\S)(?:(?P<name>dnat|snat|redirect|masquerade)(?: ip6?)?(?: to [^\s{}\"]+)?"
    r"(?: (?:random|fully-random|persistent)(?:,(?:random|fully-random|persistent))*)?"
    r'|(?P<log>log)(?: prefix "\.*"| level [a-z]+| (?:group|snaplen|queue-threshold) \d+)*'
    r"(?: counter(?: packets \d+ bytes \d+)?)?)$"
)
_ANONYMOUS: Final = re.compile(r" (?:jump|goto) \{.*", re.DOTALL)  # its conditions are other rules'
# Words of statements behind a key that they take, not values it is compared with
_ACTIONS: Final = frozenset({"set", "vmap", "map", "timeout", "limit", "missing", "exists"})


class _Told(NamedTuple):
    """What nft's text tells: with a handle a rule and its text, else a line about a table or a chain.

    ``chain``: None where it is about the table, or where a rule's handle is in what may be a comment alone.
    ``text``: None where it cannot be separated from what is around it. ``own``: in the first line of a table
    or a chain the handle of that.
    """

    table: TableName
    chain: str | None
    handle: int | None
    text: str | None
    own: int | None = None


def texts(text: bytes) -> tuple[dict[tuple[str, str, int], str], set[TableName]]:
    """The rules' texts by family, table and handle, and the tables whose chains are attached nowhere.

    A comment may hold line feeds and quotes, and so look like rules: what stands there twice is not known.
    """
    found: dict[tuple[str, str, int], str | None] = {}
    dormant: set[TableName] = set()
    for one in _lines(text):
        if one.handle is not None:
            key = (*one.table, one.handle)
            found[key] = None if key in found or one.text is None else one.text.strip()
        elif one.chain is None and "dormant" in re.split(r"[\s,;]+", one.text or ""):
            dormant.add(one.table)
    return {key: spec for key, spec in found.items() if spec is not None}, dormant


def devices(text: bytes) -> dict[tuple[str, str, str], frozenset[str]]:
    """Of chains at ingress and egress: those devices whose packets they see; nft's JSON may leave them out."""
    found = {}
    for (family, table), chain, handle, line, _ in _lines(text):
        hook = _HOOK_LINE.match(line or "") if chain is not None and handle is None else None
        if chain is not None and hook and (told := _DEVICES.search(hook[0])):
            names = re.findall(r'"([^"]*)"|([^\s,"]+)', told[1])
            found[family, table, chain] = frozenset(one or other for one, other in names)
    return found


def objects(text: bytes, specs: Mapping[tuple[str, str, int], str]) -> Iterator[dict[str, Any]]:
    """The ruleset as nft's JSON would tell it, as far as the text does."""
    for (family, table), chain, handle, line, own in _lines(text):
        here = {"family": family, "table": table}
        named = {} if own is None else {"handle": own}
        if chain is None and handle is None:
            yield {"table": {"family": family, "name": table, **named}}
        elif chain is not None and handle is None:
            hook = _HOOK_LINE.match(line or "")
            base = _attached(family, hook) if hook else {}
            yield {"chain": {**here, "name": chain, **named, **base}}
        elif chain is not None and handle is not None:
            spec = specs.get((family, table, handle), "")
            rule = {"handle": handle, "expr": _expr(line or "", spec)}
            comment = _COMMENT.search(spec)
            rule |= {"comment": comment[1]} if comment else {}
            yield {"rule": {**here, "chain": chain, **rule}}


def _expr(line: str, spec: str) -> list[Any]:
    """A rule's statements by its text: some conditions, one not understood, what no event of a trace tells."""
    if _TRACING.match(line):
        return [{"xt": {"type": "match", "name": "comment"}}, {"counter": None}, _TRACE]
    plain = _COMMENT.sub("", spec)
    if plain.endswith("meta nftrace set 1"):
        return [{TEXT: spec}, _TRACE]
    if _ACCEPTING.match(spec):
        return [{"accept": None}]
    conditions = list(_conditions(_ANONYMOUS.sub("", plain)))
    _, last, how = f" {plain}".rpartition(" reject")
    rejects = last and (not how or how.startswith(" with ")) and not set('"{}') & set(how)
    does = "reject" if rejects else _does(plain)
    return [*conditions, {TEXT: spec}, *([{does: None}] if does else [])]


def _does(spec: str) -> str | None:
    """The statement at the end of a rule without a verdict, where that is plain to read."""
    plain = _QUOTED.sub(lambda one: f'"{"." * (len(one[0]) - 2)}"', spec)
    found = _STATEMENT.search(plain, max(len(plain) - _LONGEST_STATEMENT, 0))
    return found["name"] or found["log"] if found else None


def _conditions(spec: str) -> Iterator[dict[str, Any]]:
    """The statements "match" of comparisons that are plain to read."""
    for found in _CONDITION.finditer(spec):
        if found["value"] not in _ACTIONS:
            kind, _, name = found["key"].rpartition(" ")
            left = (
                {"meta": {"key": name}}
                if kind in ("", "meta")
                else {"payload": {"protocol": kind, "field": name}}
            )
            op = "!=" if found["not"] else "=="
            yield {"match": {"op": op, "left": left, "right": _value(found["value"])}}


def _value(text: str) -> Any:  # noqa: ANN401 - JSON
    """A value as nft's JSON has it."""
    low, dash, high = text.partition("-")
    address, slash, length = text.partition("/")
    if text.startswith('"'):
        return text.strip('"')
    if dash and _scalar(low) != low:
        return {"range": [_scalar(low), _scalar(high)]}
    if slash and length.isdecimal():
        return {"prefix": {"addr": address, "len": int(length[:4])}}
    return _scalar(text)


def _scalar(text: str) -> int | str:
    try:
        return int(text, 0)
    except ValueError:
        return text


def _attached(family: str, line: re.Match[str]) -> dict[str, Any]:
    """Where a base chain is, by the line that says so."""
    names = _BRIDGE_PRIORITIES if family == "bridge" else _PRIORITIES
    offset = int((line["offset"] or "0").replace(" ", ""))
    priority = names[line["name"]] + offset if line["name"] in names else None
    policy = {} if line["policy"] is None else {"policy": line["policy"]}
    return {"type": line["type"], "hook": line["hook"], "prio": priority, **policy}


def lines(text: str) -> Iterator[str]:
    """The lines without the line feeds at their ends; a quoted comment may hold some.

    Where it may end before, at what looks like the end of a rule, and where nothing
    closes the quotes, each line is one.
    """
    begun: list[str] = []
    rest = iter(text.split("\n"))
    for line in rest:
        begun.append(line)
        odd = line.count('"') % 2 == 1
        if len(begun) == 1 and odd and not _RULE_LINE.match(line):
            continue
        if len(begun) > 1 and not odd and not _RULE_LINE.match(line):
            continue
        yield from ["\n".join(begun)] if len(begun) == 1 or odd else begun
        begun = []
    yield from begun


def _lines(text: bytes) -> Iterator[_Told]:
    """What each line tells, in order."""
    table: TableName | None = None
    chain: str | None = None
    begun: list[str] = []
    quoted = hookless = False
    for line in text.decode("utf-8", "backslashreplace").split("\n"):
        if table is not None and chain is not None and (begun or line.startswith("\t\t")):
            begun.append(line)
            quoted ^= line.count('"') % 2 == 1
            last = _RULE_LINE.match(line)
            if quoted or _is_inside(begun[0], line):
                if last:
                    yield _Told(table, None, int(last[2]), None)
                continue
            if last and (whole := _RULE_LINE.match(_joined(begun))):
                sound = not any(map(_RULE_LINE.match, begun[:-1]))
                yield _Told(table, chain, int(last[2]), whole[1] if sound else None)
            elif hookless and _HOOK_LINE.match(line):
                yield _Told(table, chain, None, line)
                hookless = False
            begun = []
        elif found := _TABLE_LINE.match(line):
            table, chain = (found[1], found[2]), None
            yield _Told(table, None, None, None, _number(found[3]))
        elif table is not None:
            found = _CHAIN_LINE.match(line)
            chain = found[1] if found else None
            hookless = found is not None
            if found or line.startswith("\tflags "):
                own = _number(found[2]) if found else None
                yield _Told(table, chain, None, line, own)


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


def _joined(begun: list[str]) -> str:
    """The lines of a rule as one, with an anonymous chain as nft reads it: jump { counter; return; }."""
    if not begun[0].endswith("{"):
        return "\n".join(begun)
    inner = "".join(f" {line.strip()};" for line in begun[1:-1])
    return f"{begun[0]}{inner} {begun[-1].strip()}"


def _is_inside(first: str, line: str) -> bool:
    """Whether a line is in the anonymous chain that a rule's first line begins."""
    return first.endswith("{") and not line.startswith("\t\t}")
